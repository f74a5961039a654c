package conformance

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgpcrypto "github.com/ProtonMail/gopenpgp/v3/crypto"
	"github.com/siderolabs/go-api-signature/pkg/message"
	"github.com/siderolabs/go-api-signature/pkg/serviceaccount"
	"google.golang.org/grpc/metadata"

	"bootlace/conformance/vectors"
)

const vectorFiles = "../../omni-link/auth/tests/vectors/"

// TestVectorsOfRust reads the key and the signatures that omni-auth keeps as what it makes.
func TestVectorsOfRust(t *testing.T) {
	text, err := os.ReadFile(vectorFiles + "bootlace.json")
	if err != nil {
		t.Fatal(err)
	}

	var made struct {
		Env, Public, Fingerprint string
		Calls                    []struct {
			Method  string
			Headers map[string][]string
		}
	}
	if err = json.Unmarshal(text, &made); err != nil {
		t.Fatal(err)
	}

	// What it says of itself besides: see omni-link/auth/src/key/tests.rs.
	const created, lifetime = 1_790_000_000, 60 * 365 * 24 * 60 * 60

	key := vectors.Key{
		Env: made.Env, Public: made.Public, Fingerprint: made.Fingerprint, Name: "infra-provider:bare-metal",
		UserID:  "bare-metal (bootlace) <bare-metal@infra-provider.serviceaccount.omni.sidero.dev>",
		Created: created, Expires: created + lifetime,
	}

	for _, call := range made.Calls {
		at, err := strconv.ParseInt(call.Headers[message.TimestampHeaderKey][0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}

		right := vectors.Call{What: call.Method, Method: call.Method, Headers: call.Headers, At: at, Accepted: true}
		wrong := right
		wrong.What, wrong.Method, wrong.Accepted = call.Method+" as another", call.Method+"x", false
		key.Calls = append(key.Calls, right, wrong)
	}

	if len(key.Calls) == 0 {
		t.Fatal("nothing is signed")
	}

	readKey(t, key)
}

// TestVectorsOfGo holds the reader of TestVectorsOfRust against what Omni's own libraries made.
func TestVectorsOfGo(t *testing.T) {
	readVectors(t, "go.json")
}

func readVectors(t *testing.T, name string) {
	t.Helper()

	file, err := vectors.Read(vectorFiles + name)
	if err != nil {
		t.Fatal(err)
	}

	if len(file.Keys) == 0 {
		t.Fatalf("%s has no keys", name)
	}

	for _, key := range file.Keys {
		t.Run(key.What, func(t *testing.T) { readKey(t, key) })
	}

	for _, refused := range file.Refused {
		t.Run("refused: "+refused.What, func(t *testing.T) {
			if usable(refused.Env) {
				t.Error("it can be used")
			}
		})
	}
}

// usable says whether Omni's client could sign with the key in the way this version of the server knows.
func usable(env string) bool {
	account, err := serviceaccount.Decode(env)
	if err != nil || !account.Key.IsPrivate() || len(account.Key.Fingerprint()) != 40 {
		return false
	}

	signature, err := account.Key.Sign([]byte("x"))
	if err != nil {
		return false
	}

	parsed, err := packet.Read(strings.NewReader(string(signature)))
	if err != nil {
		return false
	}

	found, ok := parsed.(*packet.Signature)

	return ok && found.PubKeyAlgo == packet.PubKeyAlgoEdDSA
}

func readKey(t *testing.T, key vectors.Key) {
	t.Helper()

	account, err := serviceaccount.Decode(key.Env)
	if err != nil {
		t.Fatal(err)
	}

	if account.Name != key.Name || account.Key.Fingerprint() != key.Fingerprint {
		t.Errorf("it is read as %s %s", account.Name, account.Key.Fingerprint())
	}

	// A key of a few hours may have ended since it was made: then Omni's client refuses it, and must.
	ended := key.Expires != 0 && time.Now().After(time.Unix(key.Expires, 0))
	if usable(key.Env) == ended {
		t.Errorf("Omni's client signs with it: %v, it has ended: %v", !ended, ended)
	}

	public, err := pgpcrypto.NewKeyFromArmored(key.Public)
	if err != nil {
		t.Fatal(err)
	}

	if public.IsPrivate() || public.GetFingerprint() != key.Fingerprint {
		t.Errorf("the public key is %s, private %v", public.GetFingerprint(), public.IsPrivate())
	}

	signature, identity := public.GetEntity().PrimaryIdentity(time.Unix(key.Created, 0), &packet.Config{})
	if identity == nil {
		t.Fatal("no user id is valid when the key was created")
	}

	if identity.Name != key.UserID {
		t.Errorf("the user id is %q", identity.Name)
	}

	if got := public.GetEntity().PrimaryKey.CreationTime.Unix(); got != key.Created {
		t.Errorf("it was created at %d", got)
	}

	var expires int64
	if signature.KeyLifetimeSecs != nil && *signature.KeyLifetimeSecs > 0 {
		expires = key.Created + int64(*signature.KeyLifetimeSecs)
	}

	if expires != key.Expires {
		t.Errorf("it expires at %d, not %d", expires, key.Expires)
	}

	// What a client encrypts to it, it opens: the subkey is whole.
	ring, err := pgpcrypto.NewKeyRing(public)
	if err != nil {
		t.Fatal(err)
	}

	if !public.CanEncrypt(key.Created) {
		t.Error("nothing can be encrypted to it")
	}

	for _, call := range key.Calls {
		t.Run(call.What, func(t *testing.T) {
			if got := judge(call, ring, account); got != call.Accepted {
				t.Errorf("Go's verdict is %v, the file says %v", got, call.Accepted)
			}
		})
	}
}

// judge is the server's check of a call at the time of the call; go-api-signature itself knows only the present.
func judge(call vectors.Call, ring *pgpcrypto.KeyRing, account *serviceaccount.ServiceAccount) bool {
	md := metadata.MD{}
	for key, values := range call.Headers {
		md.Set(key, values...)
	}

	one := func(key string) string {
		if values := md.Get(key); len(values) > 0 {
			return values[0]
		}

		return ""
	}

	stamp, err := time.ParseDuration(one(message.TimestampHeaderKey) + "s")
	if err != nil {
		return false
	}

	if skew := time.Duration(call.At)*time.Second - stamp; skew.Abs() > 5*time.Minute {
		return false
	}

	payload, err := message.ParseGRPCPayload([]byte(one(message.PayloadHeaderKey)))
	if err != nil || payload.Method != call.Method {
		return false
	}

	for key, values := range message.BuildGRPCPayload(md, call.Method).Headers {
		if !reflect.DeepEqual(payload.Headers[key], values) {
			return false
		}
	}

	parts := strings.Split(one(message.SignatureHeaderKey), " ")
	if len(parts) != 4 || parts[0] != "siderov1" || parts[2] != account.Key.Fingerprint() {
		return false
	}

	signature, err := base64.StdEncoding.DecodeString(parts[3])
	if err != nil {
		return false
	}

	verifier, err := pgpcrypto.PGP().Verify().VerificationKeys(ring).VerifyTime(call.At).New()
	if err != nil {
		return false
	}

	result, err := verifier.VerifyDetached([]byte(one(message.PayloadHeaderKey)), signature, pgpcrypto.Bytes)

	return err == nil && result.SignatureError() == nil
}
