// Vectors writes keys and signatures, made by the libraries that Omni uses, for the tests of omni-auth:
//
//	go run ./cmd/vectors ../../omni-link/auth/tests/vectors/go.json
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgpcrypto "github.com/ProtonMail/gopenpgp/v3/crypto"
	"github.com/ProtonMail/gopenpgp/v3/profile"
	"github.com/siderolabs/go-api-signature/pkg/message"
	"github.com/siderolabs/go-api-signature/pkg/pgp"
	"github.com/siderolabs/go-api-signature/pkg/serviceaccount"
	"google.golang.org/grpc/metadata"

	"bootlace/conformance/vectors"
)

const (
	year   = 365 * 24 * time.Hour
	domain = "infra-provider.serviceaccount.omni.sidero.dev"
	get    = "/cosi.resource.State/Get"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: vectors FILE")
	}

	file := vectors.File{By: "go-api-signature v0.3.13, gopenpgp v3.4.1", Keys: keys(), Refused: refused()}

	text, err := json.MarshalIndent(file, "", "  ")
	check(err)
	check(os.WriteFile(os.Args[1], append(text, '\n'), 0o644))
}

func keys() []vectors.Key {
	return []vectors.Key{
		vector(allCalls, "as omnictl makes it, one year", "infra-provider:bare-metal",
			generate("bare-metal", "linux/amd64", "bare-metal@"+domain, year)),
		vector(firstCall, "four hours", "infra-provider:rack-7",
			generate("rack-7", "darwin/arm64", "rack-7@"+domain, 4*time.Hour)),
		vector(firstCall, "no comment, a long name", "infra-provider:"+strings.Repeat("n", 60),
			generate(strings.Repeat("n", 60), "", strings.Repeat("n", 60)+"@"+domain, 90*24*time.Hour)),
		vector(firstCall, "an ordinary service account", "ci",
			generate("ci", "linux/amd64", "ci@serviceaccount.omni.sidero.dev", year)),
		vector(firstCall, "made by gopenpgp itself, with a lifetime", "infra-provider:direct", direct(profile.Default(), year)),
		vector(firstCall, "made by gopenpgp itself, without end", "infra-provider:forever", direct(profile.Default(), 0)),
	}
}

func generate(name, comment, email string, lifetime time.Duration) *pgp.Key {
	return must(pgp.GenerateKey(name, comment, email, lifetime))
}

func direct(p *profile.Custom, lifetime time.Duration) *pgp.Key {
	builder := pgpcrypto.PGPWithProfile(p).KeyGeneration().AddUserId("direct", "direct@"+domain)
	if lifetime > 0 {
		builder = builder.Lifetime(int32(lifetime / time.Second))
	}

	return must(pgp.NewKey(must(builder.New().GenerateKey())))
}

// How many of the calls a vector holds: the wrong ones of one key are enough.
const (
	firstCall = 1
	allCalls  = 1 << 30
)

func vector(limit int, what, name string, key *pgp.Key) vectors.Key {
	env := must(serviceaccount.Encode(name, key))
	// What a client reads, not what the generator holds.
	account := must(serviceaccount.Decode(env))
	public := must(account.Key.ArmorPublic())
	entity := must(pgpcrypto.NewKeyFromArmored(public)).GetEntity()
	signed := calls(account)
	signature, identity := entity.PrimaryIdentity(time.Time{}, &packet.Config{})

	out := vectors.Key{
		What:        what,
		Env:         env,
		Name:        account.Name,
		UserID:      identity.Name,
		Fingerprint: account.Key.Fingerprint(),
		Public:      public,
		Created:     entity.PrimaryKey.CreationTime.Unix(),
		Calls:       signed[:min(limit, len(signed))],
	}

	if signature.KeyLifetimeSecs != nil && *signature.KeyLifetimeSecs > 0 {
		out.Expires = out.Created + int64(*signature.KeyLifetimeSecs)
	}

	return out
}

// calls are the headers of calls, right and wrong ones, each with the verdict of Omni's verifier.
func calls(account *serviceaccount.ServiceAccount) []vectors.Call {
	sign := func(method string, extra metadata.MD) metadata.MD {
		md := metadata.MD{}
		maps.Copy(md, extra)
		check(message.NewGRPC(md, method).Sign(account.Name, account.Key))

		return md
	}

	payload := func(text, timestamp string) metadata.MD {
		return metadata.MD{
			message.TimestampHeaderKey: {timestamp},
			message.PayloadHeaderKey:   {text},
			message.SignatureHeaderKey: {fmt.Sprintf("siderov1 %s %s %s", account.Name, account.Key.Fingerprint(),
				base64.StdEncoding.EncodeToString(must(account.Key.Sign([]byte(text)))))},
		}
	}

	shifted := func(by time.Duration) metadata.MD {
		stamp := strconv.FormatInt(time.Now().Add(by).Unix(), 10)

		return payload(fmt.Sprintf(`{"headers":{"x-sidero-timestamp":["%s"]},"method":"%s"}`, stamp, get), stamp)
	}

	changed := func(key string, values ...string) metadata.MD {
		md := sign(get, nil)
		if len(values) == 0 {
			md.Delete(key)
		} else {
			md.Set(key, values...)
		}

		return md
	}

	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	other := must(pgp.GenerateKey("other", "", "other@"+domain, year))
	forged := metadata.MD{}
	check(message.NewGRPC(forged, get).Sign(account.Name, impostor{other, account.Key.Fingerprint()}))

	return []vectors.Call{
		verdict(account, "as the client signs", get, sign(get, nil)),
		verdict(account, "a stream", "/cosi.resource.State/Watch", sign("/cosi.resource.State/Watch", nil)),
		verdict(account, "headers that are signed too", get,
			sign(get, metadata.Pairs("nodes", "a", "nodes", "b", "cluster", "c", "authorization", "Bearer x"))),
		verdict(account, "headers that are not", get,
			sign(get, metadata.Pairs("user-agent", "grpc-go/1.82.1", "providerid", "bare-metal"))),
		verdict(account, "four minutes ahead", get, shifted(4*time.Minute)),
		verdict(account, "four minutes behind", get, shifted(-4*time.Minute)),
		verdict(account, "six minutes ahead", get, shifted(6*time.Minute)),
		verdict(account, "six minutes behind", get, shifted(-6*time.Minute)),
		verdict(account, "another method", "/cosi.resource.State/Destroy", sign(get, nil)),
		verdict(account, "a header added later", get, changed("nodes", "evil")),
		verdict(account, "another time than signed", get,
			changed(message.TimestampHeaderKey, strconv.FormatInt(time.Now().Unix()+1, 10))),
		verdict(account, "two times", get, changed(message.TimestampHeaderKey, stamp, stamp)),
		verdict(account, "no time", get, changed(message.TimestampHeaderKey)),
		verdict(account, "no payload", get, changed(message.PayloadHeaderKey)),
		verdict(account, "no signature", get, changed(message.SignatureHeaderKey)),
		verdict(account, "spaces and unknown fields", get, payload(
			`{ "method": "`+get+`", "x": {"y": [1, null]}, "headers": { "x-sidero-timestamp" : ["`+stamp+`"] } }`, stamp)),
		verdict(account, "null headers", get, payload(
			`{"headers":{"nodes":null,"x-sidero-timestamp":["`+stamp+`"]},"method":"`+get+`"}`, stamp)),
		verdict(account, "an empty list for a header that is absent", get, payload(
			`{"headers":{"nodes":[],"x-sidero-timestamp":["`+stamp+`"]},"method":"`+get+`"}`, stamp)),
		verdict(account, "names of fields in other case", get, payload(
			`{"Headers":{"x-sidero-timestamp":["`+stamp+`"]},"METHOD":"`+get+`"}`, stamp)),
		verdict(account, "no JSON", get, payload(`{`, stamp)),
		verdict(account, "another key with this fingerprint", get, forged),
	}
}

// impostor signs with its own key under another one's fingerprint.
type impostor struct {
	*pgp.Key
	fingerprint string
}

func (i impostor) Fingerprint() string { return i.fingerprint }

func verdict(account *serviceaccount.ServiceAccount, what, method string, md metadata.MD) vectors.Call {
	at := time.Now().Unix()
	err := message.NewGRPC(md, method).VerifySignature(account.Key)

	return vectors.Call{What: what, Method: method, Headers: md, At: at, Accepted: err == nil}
}

func refused() []vectors.Refused {
	armored := func(what string, key *pgpcrypto.Key) vectors.Refused {
		return vectors.Refused{What: what, Env: envelope(must(key.Armor()))}
	}

	modern := pgpcrypto.PGPWithProfile(profile.RFC9580()).KeyGeneration().AddUserId("x", "x@"+domain).New()
	rsa := pgpcrypto.PGPWithProfile(profile.RFC4880()).KeyGeneration().AddUserId("x", "x@"+domain).New()
	curve := must(pgpcrypto.PGP().KeyGeneration().AddUserId("x", "x@"+domain).New().GenerateKey())
	public := must(curve.ToPublic())
	locked := must(pgpcrypto.PGP().LockKey(curve, []byte("secret")))
	whole := must(curve.Armor())

	return []vectors.Refused{
		armored("version 6", must(modern.GenerateKey())),
		armored("RSA", must(rsa.GenerateKey())),
		armored("only the public half", public),
		armored("locked with a passphrase", locked),
		{What: "cut in the middle", Env: envelope(whole[:len(whole)/2])},
		{What: "wrong checksum or body", Env: envelope(strings.Replace(whole, "\n\n", "\n\nAAAA", 1))},
		{What: "no armor", Env: envelope("hello")},
		{What: "no JSON", Env: base64.StdEncoding.EncodeToString([]byte("hello"))},
		{What: "no base64", Env: "%%%"},
		{What: "empty", Env: ""},
	}
}

func envelope(armored string) string {
	text := must(json.Marshal(serviceaccount.JSON{Name: "infra-provider:x", PGPKey: armored}))

	return base64.StdEncoding.EncodeToString(text)
}

func must[T any](value T, err error) T {
	check(err)

	return value
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
