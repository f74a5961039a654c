package conformance

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cosi-project/runtime/api/v1alpha1"
	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/resource/meta"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/go-api-signature/pkg/message"
	"github.com/siderolabs/go-api-signature/pkg/pgp"
	"github.com/siderolabs/go-api-signature/pkg/serviceaccount"
	"github.com/siderolabs/omni/client/pkg/access"
	"github.com/siderolabs/omni/client/pkg/client"
	"github.com/siderolabs/omni/client/pkg/omni/resources"
	"github.com/siderolabs/omni/client/pkg/omni/resources/infra"
	omnires "github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	"github.com/siderolabs/omni/client/pkg/omni/resources/system"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// lookedFor ends the waits for something that another part of the hub does.
const lookedFor = 5 * time.Second

// environment is what `bootlace hub provider create` printed, and what run.sh says about the appliance.
func environment(t *testing.T, name string) string {
	t.Helper()

	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: start the tests with run.sh", name)
	}

	return value
}

func providerID(t *testing.T) string {
	t.Helper()

	return environment(t, "PROVIDER_ID")
}

// omniClient is Omni's own client with the key of the provider.
func omniClient(t *testing.T) *client.Client {
	t.Helper()

	return omniClientWith(t, environment(t, serviceaccount.OmniServiceAccountKeyEnvVar))
}

func omniClientWith(t *testing.T, key string) *client.Client {
	t.Helper()

	c, err := client.New(environment(t, "OMNI_ENDPOINT"), client.WithServiceAccount(key))
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { c.Close() })

	return c
}

// omniState is the hub as the provider sees it.
func omniState(t *testing.T) state.State {
	t.Helper()

	return omniClient(t).Omni().State()
}

// rawState calls the API without signing: the caller makes the headers.
func rawState(t *testing.T) v1alpha1.StateClient {
	t.Helper()

	_, address, _ := strings.Cut(environment(t, "OMNI_ENDPOINT"), "://")

	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { conn.Close() })

	return v1alpha1.NewStateClient(conn)
}

func expect(t *testing.T, what string, err error, want ...codes.Code) {
	t.Helper()

	if got := code(err); !slices.Contains(want, got) {
		t.Errorf("%s: %v, not %v: %v", what, got, want, err)
	}
}

// code is the gRPC code of an error. The COSI client's errors show it in their text only.
func code(err error) codes.Code {
	if err == nil {
		return codes.OK
	}

	if found, ok := status.FromError(err); ok {
		return found.Code()
	}

	for code := range codes.Unauthenticated + 1 {
		if strings.Contains(err.Error(), "code = "+code.String()+" ") {
			return code
		}
	}

	return codes.Unknown
}

// eventually waits until there is no error.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()

	deadline := time.Now().Add(lookedFor)

	for {
		err := check()
		if err == nil {
			return
		}

		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}

		time.Sleep(20 * time.Millisecond)
	}
}

// TestOmniKey reads the key that bootlace made as Omni's client does.
func TestOmniKey(t *testing.T) {
	account, err := serviceaccount.Decode(environment(t, serviceaccount.OmniServiceAccountKeyEnvVar))
	if err != nil {
		t.Fatal(err)
	}

	if want := access.InfraProviderServiceAccountPrefix + providerID(t); account.Name != want {
		t.Errorf("the name is %s, not %s", account.Name, want)
	}

	if err = account.Key.Validate(pgp.WithMaxAllowedLifetime(2*366*24*time.Hour), pgp.WithValidEmailAsName(true)); err != nil {
		t.Error(err)
	}

	unlocked, err := account.Key.IsUnlocked()
	if err != nil || !unlocked || !account.Key.IsPrivate() {
		t.Errorf("private %v, unlocked %v, %v", account.Key.IsPrivate(), unlocked, err)
	}

	signature, err := account.Key.Sign([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}

	if err = account.Key.Verify([]byte("x"), signature); err != nil {
		t.Error(err)
	}

	// The hub stores the public half under the fingerprint, for the identity that Omni derives from the name.
	wanted := access.ParseServiceAccountFromName(account.Name).FullID()
	stored := operatorGet(t, resources.DefaultNamespace, "PublicKeys.omni.sidero.dev", account.Key.Fingerprint())

	if !strings.Contains(string(stored.Spec.ProtoSpec), wanted) {
		t.Errorf("the stored key is not of %s: %s", wanted, stored.Spec.YamlSpec)
	}

	operatorGet(t, resources.DefaultNamespace, "Identities.omni.sidero.dev", wanted)
}

// operatorGet reads without a Go type.
func operatorGet(t *testing.T, namespace, typ, id string) *v1alpha1.Resource {
	t.Helper()

	got, err := v1alpha1.NewStateClient(dialOperator(t)).Get(bounded(t), &v1alpha1.GetRequest{Namespace: namespace, Type: typ, Id: id})
	if err != nil {
		t.Fatal(err)
	}

	return got.Resource
}

// TestOmniSignatures are calls that are not signed as they should be.
func TestOmniSignatures(t *testing.T) {
	account, err := serviceaccount.Decode(environment(t, serviceaccount.OmniServiceAccountKeyEnvVar))
	if err != nil {
		t.Fatal(err)
	}

	raw, ctx, id := rawState(t), bounded(t), providerID(t)
	get := func(md metadata.MD) error {
		_, err := raw.Get(metadata.NewOutgoingContext(ctx, md), &v1alpha1.GetRequest{
			Namespace: resources.InfraProviderNamespace, Type: siderolink.ProviderJoinConfigType, Id: id,
		})

		return err
	}
	signed := func(key *pgp.Key, payload string, at time.Time) metadata.MD {
		signature, err := key.Sign([]byte(payload))
		if err != nil {
			t.Fatal(err)
		}

		return metadata.Pairs(
			message.TimestampHeaderKey, strconv.FormatInt(at.Unix(), 10),
			message.PayloadHeaderKey, payload,
			message.SignatureHeaderKey, fmt.Sprintf("siderov1 %s %s %s", account.Name, account.Key.Fingerprint(),
				base64.StdEncoding.EncodeToString(signature)),
		)
	}
	payload := func(method string, at time.Time) string {
		return fmt.Sprintf(`{"headers":{"x-sidero-timestamp":["%d"]},"method":"%s"}`, at.Unix(), method)
	}
	method := v1alpha1.State_Get_FullMethodName
	now := time.Now()

	expect(t, "the short form", get(signed(account.Key, payload(method, now), now)), codes.OK)

	for _, skew := range []time.Duration{-4 * time.Minute, 4 * time.Minute} {
		at := now.Add(skew)
		expect(t, "a clock off by "+skew.String(), get(signed(account.Key, payload(method, at), at)), codes.OK)
	}

	for _, skew := range []time.Duration{-6 * time.Minute, 6 * time.Minute} {
		at := now.Add(skew)
		expect(t, "a clock off by "+skew.String(), get(signed(account.Key, payload(method, at), at)), codes.Unauthenticated)
	}

	other, err := pgp.GenerateKey("x", "", "x@infra-provider.serviceaccount.omni.sidero.dev", time.Hour)
	if err != nil {
		t.Fatal(err)
	}

	unsigned := get(nil)
	expect(t, "no signature", unsigned, codes.Unauthenticated)

	if text := status.Convert(unsigned).Message(); text != "invalid signature" {
		t.Errorf("the text is %q", text)
	}

	expect(t, "another key with this fingerprint", get(signed(other, payload(method, now), now)), codes.Unauthenticated)
	expect(t, "another method", get(signed(account.Key, payload(v1alpha1.State_List_FullMethodName, now), now)), codes.Unauthenticated)
	expect(t, "another time", get(signed(account.Key, payload(method, now), now.Add(time.Second))), codes.Unauthenticated)

	added := signed(account.Key, payload(method, now), now)
	added.Set("nodes", "10.0.0.1")
	expect(t, "a header added later", get(added), codes.Unauthenticated)

	extra := signed(account.Key, payload(method, now), now)
	extra.Set("providerid", id)
	expect(t, "a header that is not signed", get(extra), codes.OK)

	unknown, err := serviceaccount.Encode(account.Name, other)
	if err != nil {
		t.Fatal(err)
	}

	_, err = omniClientWith(t, unknown).Omni().State().Get(ctx, siderolink.NewProviderJoinConfig(id).Metadata())
	expect(t, "an unknown key", err, codes.Unauthenticated)

	// A stream is refused too, at its start.
	stream, err := raw.Watch(ctx, &v1alpha1.WatchRequest{Namespace: resources.InfraProviderNamespace, Type: infra.InfraMachineType})
	if err == nil {
		_, err = stream.Recv()
	}

	expect(t, "an unsigned watch", err, codes.Unauthenticated)
}

// TestOmniRegistration is what a provider does first.
func TestOmniRegistration(t *testing.T) {
	st, ctx, id := omniState(t), bounded(t), providerID(t)

	// There may be one of an earlier test.
	if err := st.Destroy(ctx, infra.NewProviderStatus(id).Metadata()); err != nil && !state.IsNotFoundError(err) {
		t.Fatal(err)
	}

	newStatus := func(id string) *infra.ProviderStatus {
		res := infra.NewProviderStatus(id)
		res.Metadata().Labels().Set(omnires.LabelIsStaticInfraProvider, "")
		res.TypedSpec().Value.Name = "Conformance"
		res.TypedSpec().Value.Description = "two\nlines: \"quoted\""
		res.TypedSpec().Value.Icon = base64.RawStdEncoding.EncodeToString([]byte("<svg/>"))
		res.TypedSpec().Value.Version = "v1.2.3"

		return res
	}

	if err := st.Create(ctx, newStatus(id)); err != nil {
		t.Fatal(err)
	}

	if err := st.Create(ctx, newStatus(id)); !state.IsConflictError(err) {
		t.Errorf("a second time: %v", err)
	}

	updated, err := safe.StateUpdateWithConflicts(ctx, st, newStatus(id).Metadata(), func(res *infra.ProviderStatus) error {
		res.TypedSpec().Value.Description = "one line"
		// It is set again, whatever is sent.
		res.Metadata().Labels().Delete(omnires.LabelInfraProviderID)

		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	got, err := safe.StateGetByID[*infra.ProviderStatus](ctx, st, id)
	if err != nil {
		t.Fatal(err)
	}

	if label, _ := got.Metadata().Labels().Get(omnires.LabelInfraProviderID); label != id {
		t.Errorf("the provider's label is %q", label)
	}

	if got.TypedSpec().Value.Description != "one line" || got.TypedSpec().Value.Name != "Conformance" ||
		!got.Metadata().Version().Equal(updated.Metadata().Version()) {
		t.Errorf("stored is %v", got)
	}

	rendered(t, got)
	expect(t, "the status of another provider", st.Create(ctx, newStatus(id+"x")), codes.PermissionDenied, codes.InvalidArgument, codes.NotFound)

	// Left for those who look whether the provider is static.
}

// TestOmniReads is what a provider may read beside its own.
func TestOmniReads(t *testing.T) {
	st, ctx, id := omniState(t), bounded(t), providerID(t)

	definition, err := safe.StateGetByID[*meta.ResourceDefinition](ctx, st, strings.ToLower(siderolink.ProviderJoinConfigType))
	if err != nil {
		t.Fatalf("the test for tokens of version 2: %v", err)
	}

	if definition.TypedSpec().Type != siderolink.ProviderJoinConfigType {
		t.Errorf("it defines %s", definition.TypedSpec().Type)
	}

	definitions, err := safe.StateListAll[*meta.ResourceDefinition](ctx, st)
	if err != nil || definitions.Len() < 10 {
		t.Errorf("%d definitions, %v", definitions.Len(), err)
	}

	for one := range definitions.All() {
		if strings.ToLower(one.TypedSpec().Type) != one.Metadata().ID() {
			t.Errorf("%s defines %s", one.Metadata().ID(), one.TypedSpec().Type)
		}
	}

	features, err := safe.StateGetByID[*omnires.FeaturesConfig](ctx, st, omnires.FeaturesConfigID)
	if err != nil || features.TypedSpec().Value.ImageFactoryBaseUrl == "" {
		t.Errorf("features: %v, %v", features, err)
	}

	config, err := safe.StateGetByID[*siderolink.APIConfig](ctx, st, siderolink.ConfigID)
	if err != nil || config.TypedSpec().Value.MachineApiAdvertisedUrl == "" || config.TypedSpec().Value.EventsPort == 0 {
		t.Errorf("machine API: %v, %v", config, err)
	}

	//nolint:staticcheck // Older providers read it.
	params, err := safe.StateGetByID[*siderolink.ConnectionParams](ctx, st, siderolink.ConfigID)
	if err != nil || params.TypedSpec().Value.ApiEndpoint == "" || params.TypedSpec().Value.JoinToken == "" {
		t.Errorf("connection parameters: %v, %v", params, err)
	}

	version, err := safe.StateGetByID[*system.SysVersion](ctx, st, system.SysVersionID)
	if err != nil || version.TypedSpec().Value.BackendVersion == "" {
		t.Errorf("version: %v, %v", version, err)
	}

	if _, err = safe.StateListAll[*omnires.Machine](ctx, st); err != nil {
		t.Errorf("machines: %v", err)
	}

	// Its own provider is there, but it does not see it.
	_, err = safe.StateGetByID[*infra.Provider](ctx, st, id)
	expect(t, "its own InfraProvider", err, codes.NotFound)
}

// TestOmniForbidden is what no provider may read or write.
func TestOmniForbidden(t *testing.T) {
	st, ctx, id := omniState(t), bounded(t), providerID(t)

	for _, typ := range []resource.Type{
		siderolink.LinkType, omnires.MachineStatusType, omnires.ClusterType, omnires.InfraMachineConfigType,
		siderolink.PendingMachineType, siderolink.NodeUniqueTokenType, siderolink.ConfigType,
		"PublicKeys.omni.sidero.dev", "Identities.omni.sidero.dev", "Users.omni.sidero.dev",
	} {
		md := resource.NewMetadata(resources.DefaultNamespace, typ, "x", resource.VersionUndefined)

		_, err := st.Get(ctx, md)
		expect(t, "get "+typ, err, codes.PermissionDenied)

		_, err = st.List(ctx, md)
		expect(t, "list "+typ, err, codes.PermissionDenied)

		expect(t, "watch "+typ, st.WatchKind(ctx, md, make(chan state.Event)), codes.PermissionDenied)
	}

	created := func(res resource.Resource) error { return st.Create(ctx, res) }
	expect(t, "create an InfraMachine", created(infra.NewMachine("x")), codes.PermissionDenied)
	expect(t, "create a MachineRequest", created(infra.NewMachineRequest("x")), codes.PermissionDenied)
	expect(t, "create a registration", created(infra.NewMachineRegistration("x")), codes.PermissionDenied)
	expect(t, "create a join configuration", created(siderolink.NewProviderJoinConfig(id)), codes.PermissionDenied)
	expect(t, "create a Machine", created(omnires.NewMachine("x")), codes.PermissionDenied)
	expect(t, "write the features", created(omnires.NewFeaturesConfig("x")), codes.PermissionDenied)
	expect(t, "another provider's namespace", created(private("infra-provider:other", "Lease.other.infraprovider.sidero.dev", "x")), codes.PermissionDenied, codes.InvalidArgument)
	expect(t, "another provider's type", created(private(resources.InfraProviderSpecificNamespacePrefix+id, "Lease.other.infraprovider.sidero.dev", "x")),
		codes.PermissionDenied, codes.InvalidArgument)
	expect(t, "destroy the join configuration", st.Destroy(ctx, siderolink.NewProviderJoinConfig(id).Metadata()), codes.PermissionDenied)
}

// TestOmniOtherProviders sees nothing of another provider.
func TestOmniOtherProviders(t *testing.T) {
	st, operator, ctx := omniState(t), operatorState(t), bounded(t)
	other := environment(t, "OTHER_PROVIDER_ID")

	foreign := infra.NewMachineStatus("foreign")
	foreign.Metadata().Labels().Set(omnires.LabelInfraProviderID, other)

	if err := operator.Create(ctx, foreign); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() {
		if err := operator.Destroy(context.Background(), foreign.Metadata()); err != nil {
			t.Error(err)
		}
	})

	_, err := st.Get(ctx, siderolink.NewProviderJoinConfig(other).Metadata())
	expect(t, "the other's join configuration", err, codes.NotFound)

	_, err = st.Get(ctx, foreign.Metadata())
	expect(t, "the other's status", err, codes.NotFound)

	list, err := safe.StateListAll[*infra.MachineStatus](ctx, st)
	if err != nil {
		t.Fatal(err)
	}

	for one := range list.All() {
		if one.Metadata().ID() == "foreign" {
			t.Error("the other's status is in the list")
		}
	}

	taken := foreign.DeepCopy()
	expect(t, "change the other's status", st.Update(ctx, taken), codes.NotFound, codes.PermissionDenied)
	expect(t, "destroy the other's status", st.Destroy(ctx, foreign.Metadata()), codes.NotFound, codes.PermissionDenied)
	expect(t, "create it once more", st.Create(ctx, infra.NewMachineStatus("foreign")), codes.AlreadyExists, codes.PermissionDenied)

	// A watch tells of nothing but its own.
	ch := make(chan state.Event)
	if err = st.WatchKind(ctx, infra.NewMachineStatus("").Metadata(), ch, state.WithBootstrapContents(true)); err != nil {
		t.Fatal(err)
	}

	if _, err = safe.StateUpdateWithConflicts(ctx, operator, foreign.Metadata(), func(res *infra.MachineStatus) error {
		res.TypedSpec().Value.ReadyToUse = true

		return nil
	}); err != nil {
		t.Fatal(err)
	}

	own := infra.NewMachineStatus("own-" + strconv.FormatInt(time.Now().UnixNano(), 36))
	if err = st.Create(ctx, own); err != nil {
		t.Fatal(err)
	}

	for {
		select {
		case event := <-ch:
			if event.Type == state.Errored {
				t.Fatal(event.Error)
			}

			if event.Resource.Metadata().ID() == "foreign" {
				t.Errorf("it is told: %v", event)
			}

			if event.Resource.Metadata().ID() != own.Metadata().ID() {
				continue
			}
		case <-ctx.Done():
			t.Fatal("its own is not told")
		}

		break
	}

	if err = st.Destroy(ctx, own.Metadata()); err != nil {
		t.Fatal(err)
	}
}
