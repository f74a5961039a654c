package conformance

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/google/uuid"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/jointoken"
	"github.com/siderolabs/omni/client/pkg/omni/resources"
	"github.com/siderolabs/omni/client/pkg/omni/resources/infra"
	omnires "github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	pb "github.com/siderolabs/siderolink/api/siderolink"
	"go.yaml.in/yaml/v4"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	talosVersion = "v1.13.7"
	// machineOwner is who writes InfraMachines in Omni.
	machineOwner = "InfraMachineController"
)

// controllerNames are the finalizers that the Go provider puts on each machine.
var controllerNames = []string{
	"PowerOperationController", "InfraMachineStatusController", "BMCConfigurationController", "RebootStatusController",
	"WipeStatusController", "MachineStatusController",
}

// register makes sure that the hub knows the provider as a static one.
func register(t *testing.T, st state.State) {
	t.Helper()

	status := infra.NewProviderStatus(providerID(t))
	status.Metadata().Labels().Set(omnires.LabelIsStaticInfraProvider, "")

	if err := st.Create(bounded(t), status); err != nil && !state.IsConflictError(err) {
		t.Fatal(err)
	}
}

// machine is what Talos or a test says of itself.
type machine struct {
	id, fingerprint, token string
	publicKey              string
}

func newMachine(t *testing.T) machine {
	t.Helper()

	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}

	id := uuid.NewString()
	digest := sha256.Sum256([]byte(id))

	return machine{
		id: id, fingerprint: hex.EncodeToString(digest[:]), token: uuid.NewString(),
		publicKey: base64.StdEncoding.EncodeToString(key.PublicKey().Bytes()),
	}
}

func (m machine) request(t *testing.T, joinToken string) *pb.ProvisionRequest {
	t.Helper()

	unique, err := jointoken.NewNodeUniqueToken(m.fingerprint, m.token).Encode()
	if err != nil {
		t.Fatal(err)
	}

	version := talosVersion
	request := &pb.ProvisionRequest{
		NodeUuid: m.id, NodePublicKey: m.publicKey, NodeUniqueToken: &unique, TalosVersion: &version,
	}

	if joinToken != "" {
		request.JoinToken = &joinToken
	}

	return request
}

// joinTokenOf is a token of version 2, made from the provider's secret as its SDK makes it.
func joinTokenOf(t *testing.T, st state.State, provider string) string {
	t.Helper()

	config, err := safe.StateGetByID[*siderolink.ProviderJoinConfig](bounded(t), st, provider)
	if err != nil {
		t.Fatal(err)
	}

	token, err := jointoken.NewWithExtraData(config.TypedSpec().Value.JoinToken, jointoken.Version2,
		map[string]string{omnires.LabelInfraProviderID: provider})
	if err != nil {
		t.Fatal(err)
	}

	text, err := token.Encode()
	if err != nil {
		t.Fatal(err)
	}

	return text
}

func machineAPI(t *testing.T) pb.ProvisionServiceClient {
	t.Helper()

	conn, err := grpc.NewClient(environment(t, "MACHINE_API"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { conn.Close() })

	return pb.NewProvisionServiceClient(conn)
}

// TestOmniJoinConfig is the configuration that a provider gives to its machines.
func TestOmniJoinConfig(t *testing.T) {
	st, id := omniState(t), providerID(t)

	config, err := safe.StateGetByID[*siderolink.ProviderJoinConfig](bounded(t), st, id)
	if err != nil {
		t.Fatal(err)
	}

	spec := config.TypedSpec().Value

	if owner := config.Metadata().Owner(); owner != "ProviderJoinConfigController" {
		t.Errorf("its owner is %q", owner)
	}

	if len(spec.JoinToken) < 40 {
		t.Errorf("the secret has %d characters", len(spec.JoinToken))
	}

	var joins string

	for _, arg := range spec.Config.KernelArgs {
		if url, ok := strings.CutPrefix(arg, "siderolink.api="); ok {
			joins = url
		}
	}

	if joins == "" {
		t.Errorf("no address in %v", spec.Config.KernelArgs)
	}

	documents := map[string]string{}
	decoder := yaml.NewDecoder(strings.NewReader(spec.Config.Config))

	for {
		var document struct {
			Kind   string `yaml:"kind"`
			APIURL string `yaml:"apiUrl"`
		}

		if decoder.Decode(&document) != nil {
			break
		}

		documents[document.Kind] = document.APIURL
	}

	for _, kind := range []string{"SideroLinkConfig", "EventSinkConfig", "KmsgLogConfig"} {
		if _, ok := documents[kind]; !ok {
			t.Errorf("no %s in %s", kind, spec.Config.Config)
		}
	}

	if documents["SideroLinkConfig"] != joins {
		t.Errorf("%s in the document, %s in the arguments", documents["SideroLinkConfig"], joins)
	}

	rendered(t, config)

	_, query, found := strings.Cut(joins, "?"+siderolink.JoinTokenQueryParam+"=")
	if !found {
		t.Fatalf("no token in %s", joins)
	}

	token, err := jointoken.Parse(unescape(query))
	if err != nil {
		t.Fatal(err)
	}

	if token.Version != jointoken.Version2 || !token.IsValid(spec.JoinToken) || token.ExtraData[omnires.LabelInfraProviderID] != id {
		t.Errorf("the token is %+v", token)
	}

	// The machine that boots with it as it is joins.
	m := newMachine(t)
	if _, err = machineAPI(t).Provision(bounded(t), m.request(t, unescape(query))); err != nil {
		t.Fatal(err)
	}

	removeMachine(t, m.id)
}

func unescape(text string) string {
	return strings.NewReplacer("%3A", ":", "%3a", ":", "%3D", "=", "%3d", "=", "%2B", "+", "%2b", "+", "%2F", "/", "%2f", "/").Replace(text)
}

// removeMachine is `omnictl delete link`, with a provider that lets go.
func removeMachine(t *testing.T, id string) {
	t.Helper()

	st, operator, ctx := omniState(t), operatorState(t), bounded(t)

	if _, err := operator.Teardown(ctx, siderolink.NewLink(id, &specs.SiderolinkSpec{}).Metadata()); err != nil {
		t.Fatal(err)
	}

	eventually(t, "the machine goes", func() error {
		res, err := st.Get(ctx, infra.NewMachine(id).Metadata())
		if state.IsNotFoundError(err) {
			return nil
		}

		if err != nil {
			t.Fatal(err)
		}

		if res.Metadata().Phase() == resource.PhaseTearingDown {
			for _, finalizer := range *res.Metadata().Finalizers() {
				if err = st.RemoveFinalizer(ctx, res.Metadata(), finalizer); err != nil {
					t.Fatal(err)
				}
			}
		}

		return fmt.Errorf("it is %s", res.Metadata().Phase())
	})
	eventually(t, "the link goes", func() error {
		_, err := operator.Get(ctx, siderolink.NewLink(id, &specs.SiderolinkSpec{}).Metadata())
		if state.IsNotFoundError(err) {
			return nil
		}

		return fmt.Errorf("it is there: %v", err)
	})
}

// TestOmniMachine is a machine's whole life as its provider sees it.
func TestOmniMachine(t *testing.T) {
	st, operator, ctx, id := omniState(t), operatorState(t), bounded(t), providerID(t)
	register(t, st)

	seen := make(chan []state.Event)
	if err := st.WatchKindAggregated(ctx, infra.NewMachine("").Metadata(), seen, state.WithBootstrapBookmark(true)); err != nil {
		t.Fatal(err)
	}

	m := newMachine(t)
	token := joinTokenOf(t, st, id)

	t.Run("joins", func(t *testing.T) { joins(t, m, token) })

	pending := appears(ctx, t, seen, m.id)
	if _, ok := pending.Metadata().Labels().Get(omnires.LabelMachinePendingAccept); !ok {
		t.Errorf("it does not wait for acceptance: %v", pending.Metadata().Labels().Raw())
	}

	if owner := pending.Metadata().Owner(); owner != machineOwner {
		t.Errorf("its owner is %s", owner)
	}

	t.Run("is held", func(t *testing.T) { held(t, st, m.id) })
	t.Run("is not the provider's to change", func(t *testing.T) { kept(t, st, m.id) })
	t.Run("is accepted", func(t *testing.T) { accepted(t, st, operator, m.id) })
	t.Run("has a BMC", func(t *testing.T) { managed(t, st, operator, m.id) })
	t.Run("has a status", func(t *testing.T) { reported(t, st, m.id) })
	t.Run("is allocated and released", func(t *testing.T) { allocated(t, st, operator, m.id) })

	if err := st.Destroy(ctx, infra.NewMachineStatus(m.id).Metadata()); err != nil {
		t.Error(err)
	}

	removeMachine(t, m.id)
}

func joins(t *testing.T, m machine, token string) {
	t.Helper()

	api, ctx := machineAPI(t), bounded(t)

	_, err := api.Provision(ctx, m.request(t, "nonsense"))
	expect(t, "with a wrong token", err, codes.PermissionDenied)

	_, err = api.Provision(ctx, m.request(t, ""))
	expect(t, "without a token", err, codes.PermissionDenied)

	answer, err := api.Provision(ctx, m.request(t, token))
	if err != nil {
		t.Fatal(err)
	}

	if prefix, err := netip.ParsePrefix(answer.NodeAddressPrefix); err != nil || !prefix.Addr().Is6() || prefix.Bits() != 64 {
		t.Errorf("its address is %s", answer.NodeAddressPrefix)
	}

	if _, err = netip.ParseAddr(answer.ServerAddress); err != nil {
		t.Error(err)
	}

	if key, err := base64.StdEncoding.DecodeString(answer.ServerPublicKey); err != nil || len(key) != 32 {
		t.Errorf("the server's key is %s", answer.ServerPublicKey)
	}

	if len(answer.ServerEndpoint) == 0 {
		t.Error("no endpoint")
	}

	// Talos comes back with every start, now with its unique token alone.
	again, err := api.Provision(ctx, m.request(t, ""))
	if err != nil {
		t.Fatal(err)
	}

	if again.NodeAddressPrefix != answer.NodeAddressPrefix {
		t.Errorf("its address was %s and is %s", answer.NodeAddressPrefix, again.NodeAddressPrefix)
	}
}

func appears(ctx context.Context, t *testing.T, seen <-chan []state.Event, id string) *infra.Machine {
	t.Helper()

	for {
		select {
		case events := <-seen:
			for _, event := range events {
				if event.Type == state.Errored {
					t.Fatal(event.Error)
				}

				if found, ok := event.Resource.(*infra.Machine); ok && found.Metadata().ID() == id {
					return found
				}
			}
		case <-ctx.Done():
			t.Fatal("it does not appear")
		}
	}
}

// held puts all finalizers on at once, as the Go provider's six controllers do.
func held(t *testing.T, st state.State, id string) {
	t.Helper()

	ctx := bounded(t)

	var group errgroup.Group

	for _, name := range controllerNames {
		group.Go(func() error { return st.AddFinalizer(ctx, infra.NewMachine(id).Metadata(), "bare-metal."+name) })
	}

	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}

	got, err := st.Get(ctx, infra.NewMachine(id).Metadata())
	if err != nil {
		t.Fatal(err)
	}

	for _, name := range controllerNames {
		if !got.Metadata().Finalizers().Has("bare-metal." + name) {
			t.Errorf("%s is missing in %v", name, *got.Metadata().Finalizers())
		}
	}
}

func kept(t *testing.T, st state.State, id string) {
	t.Helper()

	ctx, md := bounded(t), infra.NewMachine(id).Metadata()
	change := func(owner string, change func(*infra.Machine)) error {
		got, err := safe.StateGetByID[*infra.Machine](ctx, st, id)
		if err != nil {
			t.Fatal(err)
		}

		change(got)

		return st.Update(ctx, got, state.WithUpdateOwner(owner))
	}

	expect(t, "accept it", change(machineOwner, func(m *infra.Machine) {
		m.TypedSpec().Value.AcceptanceStatus = specs.InfraMachineConfigSpec_ACCEPTED
	}), codes.PermissionDenied)
	expect(t, "label it", change(machineOwner, func(m *infra.Machine) { m.Metadata().Labels().Set("a", "b") }), codes.PermissionDenied)
	expect(t, "annotate it", change(machineOwner, func(m *infra.Machine) { m.Metadata().Annotations().Set("a", "b") }), codes.PermissionDenied)
	expect(t, "hold it as somebody else", change("", func(m *infra.Machine) { m.Metadata().Finalizers().Add("x") }), codes.PermissionDenied)
	expect(t, "tear it down by update", change(machineOwner, func(m *infra.Machine) { m.Metadata().SetPhase(resource.PhaseTearingDown) }), codes.PermissionDenied)

	_, err := st.Teardown(ctx, md, state.WithTeardownOwner(machineOwner))
	expect(t, "tear it down", err, codes.PermissionDenied)
	expect(t, "destroy it", st.Destroy(ctx, md, state.WithDestroyOwner(machineOwner)), codes.PermissionDenied)
}

// accepted is what a user does in Omni.
func accepted(t *testing.T, st, operator state.State, id string) {
	t.Helper()

	ctx := bounded(t)
	config := omnires.NewInfraMachineConfig(id)
	config.TypedSpec().Value.AcceptanceStatus = specs.InfraMachineConfigSpec_ACCEPTED
	config.TypedSpec().Value.ExtraKernelArgs = "a=b c"
	config.TypedSpec().Value.RequestedRebootId = "reboot-1"
	config.TypedSpec().Value.Cordoned = true

	if err := operator.Create(ctx, config); err != nil {
		t.Fatal(err)
	}

	eventually(t, "the provider sees it", func() error {
		got, err := safe.StateGetByID[*infra.Machine](ctx, st, id)
		if err != nil {
			t.Fatal(err)
		}

		spec := got.TypedSpec().Value
		_, pending := got.Metadata().Labels().Get(omnires.LabelMachinePendingAccept)

		if spec.AcceptanceStatus != specs.InfraMachineConfigSpec_ACCEPTED || pending || spec.ExtraKernelArgs != "a=b c" ||
			spec.RequestedRebootId != "reboot-1" || !spec.Cordoned {
			return fmt.Errorf("it is %v, pending %v", spec, pending)
		}

		rendered(t, got)

		return nil
	})

	_, err := safe.StateUpdateWithConflicts(ctx, operator, config.Metadata(), func(res *omnires.InfraMachineConfig) error {
		res.TypedSpec().Value.AcceptanceStatus = specs.InfraMachineConfigSpec_PENDING

		return nil
	})
	expect(t, "acceptance is final", err, codes.InvalidArgument)
}

// managed is a BMC's address that a user gives; the provider gets a copy.
func managed(t *testing.T, st, operator state.State, id string) {
	t.Helper()

	ctx := bounded(t)
	config := omnires.NewInfraMachineBMCConfig(id)
	config.TypedSpec().Value.Ipmi = &specs.InfraMachineBMCConfigSpec_IPMI{Address: "192.0.2.7", Port: 623, Username: "u", Password: "p"}

	if err := operator.Create(ctx, config); err != nil {
		t.Fatal(err)
	}

	eventually(t, "the provider sees it", func() error {
		got, err := safe.StateGetByID[*infra.BMCConfig](ctx, st, id)
		if err != nil {
			return err
		}

		if ipmi := got.TypedSpec().Value.GetConfig().GetIpmi(); ipmi.GetAddress() != "192.0.2.7" || ipmi.GetPassword() != "p" || ipmi.GetPort() != 623 {
			t.Errorf("it is %v", got.TypedSpec().Value)
		}

		rendered(t, got)

		return nil
	})
	expect(t, "the provider changes it", st.Destroy(ctx, infra.NewBMCConfig(id).Metadata()), codes.PermissionDenied)

	if err := operator.TeardownAndDestroy(ctx, config.Metadata()); err != nil {
		t.Fatal(err)
	}

	eventually(t, "the provider's copy goes", func() error {
		if _, err := st.Get(ctx, infra.NewBMCConfig(id).Metadata()); !state.IsNotFoundError(err) {
			return fmt.Errorf("it is there: %v", err)
		}

		return nil
	})
}

func reported(t *testing.T, st state.State, id string) {
	t.Helper()

	ctx := bounded(t)
	// As the Go provider's controller writes it.
	owner := "bare-metal.InfraMachineStatusController"

	_, err := safe.StateModifyWithResult(ctx, st, infra.NewMachineStatus(id), func(res *infra.MachineStatus) error {
		res.TypedSpec().Value.PowerState = specs.InfraMachineStatusSpec_POWER_STATE_OFF
		res.TypedSpec().Value.ReadyToUse = true
		res.TypedSpec().Value.LastRebootId = "reboot-1"
		res.TypedSpec().Value.LastRebootTimestamp = timestamppb.Now()
		res.Metadata().Labels().Set("rack", "7")

		return nil
	}, state.WithUpdateOwner(owner))
	if err != nil {
		t.Fatal(err)
	}

	got, err := safe.StateGetByID[*infra.MachineStatus](ctx, st, id)
	if err != nil {
		t.Fatal(err)
	}

	if label, _ := got.Metadata().Labels().Get(omnires.LabelInfraProviderID); label != providerID(t) || got.Metadata().Owner() != owner {
		t.Errorf("provider %s, owner %s", label, got.Metadata().Owner())
	}

	rendered(t, got)
	expect(t, "as nobody", st.Destroy(ctx, got.Metadata()), codes.PermissionDenied)

	// Handed over: what follows needs no owner.
	if err = st.Destroy(ctx, got.Metadata(), state.WithDestroyOwner(owner)); err != nil {
		t.Fatal(err)
	}

	bare := infra.NewMachineStatus(id)
	bare.TypedSpec().Value.PowerState = specs.InfraMachineStatusSpec_POWER_STATE_OFF
	bare.TypedSpec().Value.ReadyToUse = true

	if err = st.Create(ctx, bare); err != nil {
		t.Fatal(err)
	}
}

// allocated puts the machine into a cluster and takes it out again: the provider gets a version, then a wipe.
func allocated(t *testing.T, st, operator state.State, id string) {
	t.Helper()

	ctx := bounded(t)
	name := "conformance-" + id[:8]

	cluster := omnires.NewCluster(name)
	cluster.TypedSpec().Value.TalosVersion = strings.TrimPrefix(talosVersion, "v")
	cluster.TypedSpec().Value.KubernetesVersion = "1.35.0"

	if err := operator.Create(ctx, cluster); err != nil {
		t.Fatal(err)
	}

	set := omnires.NewMachineSet(name + "-workers")
	set.Metadata().Labels().Set(omnires.LabelCluster, name)
	set.Metadata().Labels().Set(omnires.LabelWorkerRole, "")

	if err := operator.Create(ctx, set); err != nil {
		t.Fatal(err)
	}

	node := omnires.NewMachineSetNode(id, set)
	if err := operator.Create(ctx, node); err != nil {
		t.Fatal(err)
	}

	eventually(t, "the provider sees the allocation", func() error {
		got, err := safe.StateGetByID[*infra.Machine](ctx, st, id)
		if err != nil {
			t.Fatal(err)
		}

		labels := got.Metadata().Labels().Raw()
		if got.TypedSpec().Value.ClusterTalosVersion != "1.13.7" || labels[omnires.LabelCluster] != name ||
			labels[omnires.LabelMachineSet] != name+"-workers" || !slices.Contains(got.Metadata().Labels().Keys(), omnires.LabelWorkerRole) {
			return fmt.Errorf("it is %v, %v", got.TypedSpec().Value, labels)
		}

		if got.TypedSpec().Value.WipeId != "" {
			t.Error("it is to be wiped before its first release")
		}

		return nil
	})

	if err := operator.TeardownAndDestroy(ctx, node.Metadata()); err != nil {
		t.Fatal(err)
	}

	eventually(t, "the provider sees the release", func() error {
		got, err := safe.StateGetByID[*infra.Machine](ctx, st, id)
		if err != nil {
			t.Fatal(err)
		}

		labels := got.Metadata().Labels().Raw()
		if got.TypedSpec().Value.ClusterTalosVersion != "" || got.TypedSpec().Value.WipeId == "" || labels[omnires.LabelCluster] != "" {
			return fmt.Errorf("it is %v, %v", got.TypedSpec().Value, labels)
		}

		return nil
	})

	for _, one := range []resource.Resource{set, cluster} {
		if err := operator.TeardownAndDestroy(ctx, one.Metadata()); err != nil {
			t.Error(err)
		}
	}
}

// TestOmniWatchesOfTheProvider are the watches of the Go provider, on one connection, over a change of each.
func TestOmniWatchesOfTheProvider(t *testing.T) {
	st, ctx, id := omniState(t), bounded(t), providerID(t)
	namespace := resources.InfraProviderSpecificNamespacePrefix + id

	var watches []chan []state.Event

	for _, one := range []struct {
		namespace resource.Namespace
		typ       resource.Type
	}{
		{namespace, privateType},
		{namespace, "WipeStatus." + id + ".infraprovider.sidero.dev"},
		{namespace, "PowerOperation." + id + ".infraprovider.sidero.dev"},
		{namespace, "BMCConfiguration." + id + ".infraprovider.sidero.dev"},
		{namespace, "RebootStatus." + id + ".infraprovider.sidero.dev"},
		{resources.InfraProviderNamespace, infra.BMCConfigType},
		{resources.InfraProviderNamespace, infra.InfraMachineType},
		{resources.InfraProviderNamespace, infra.InfraMachineStatusType},
	} {
		ch := make(chan []state.Event)
		md := resource.NewMetadata(one.namespace, one.typ, "", resource.VersionUndefined)

		if err := st.WatchKindAggregated(ctx, md, ch, state.WithBootstrapBookmark(true)); err != nil {
			t.Fatalf("%s: %v", one.typ, err)
		}

		watches = append(watches, ch)
	}

	for _, ch := range watches {
		select {
		case events := <-ch:
			if len(events) != 1 || events[0].Type != state.Noop || len(events[0].Bookmark) != 8 {
				t.Errorf("it begins with %v", events)
			}
		case <-ctx.Done():
			t.Fatal("no bookmark")
		}
	}

	status := infra.NewMachineStatus("watched-" + uuid.NewString())
	if err := st.Create(ctx, status); err != nil {
		t.Fatal(err)
	}

	if err := st.Destroy(ctx, status.Metadata()); err != nil {
		t.Fatal(err)
	}

	last := watches[len(watches)-1]

	var types []state.EventType

	for len(types) < 2 {
		select {
		case events := <-last:
			for _, event := range events {
				types = append(types, event.Type)

				if event.Resource.Metadata().ID() != status.Metadata().ID() || len(event.Bookmark) != 8 {
					t.Errorf("it is told %v", event)
				}
			}
		case <-time.After(lookedFor):
			t.Fatalf("it is told %v", types)
		}
	}

	if !slices.Equal(types, []state.EventType{state.Created, state.Destroyed}) {
		t.Errorf("it is told %v", types)
	}
}
