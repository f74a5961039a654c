package conformance

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/resource/meta"
	"github.com/cosi-project/runtime/pkg/resource/typed"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/google/uuid"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/client"
	"github.com/siderolabs/omni/client/pkg/infra"
	"github.com/siderolabs/omni/client/pkg/infra/provision"
	"github.com/siderolabs/omni/client/pkg/jointoken"
	infrares "github.com/siderolabs/omni/client/pkg/omni/resources/infra"
	omnires "github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
)

// schema is what the provider wants to be told of a machine.
const schema = `{"type":"object","properties":{"cores":{"type":"integer","minimum":1}},"additionalProperties":false}`

// dynamicProvider is the second provider that run.sh makes.
const dynamicProvider = "dynamic"

// The private record of the SDK's provider, one a request.
type (
	dynamicExtension struct{}
	dynamicRecord    = typed.Resource[privateSpec, dynamicExtension]
)

func (dynamicExtension) ResourceDefinition() meta.ResourceDefinitionSpec {
	return meta.ResourceDefinitionSpec{
		Type:             infra.ResourceType("Record", dynamicProvider),
		DefaultNamespace: infra.ResourceNamespace(dynamicProvider),
	}
}

// hypervisor makes virtual machines that exist in its map only.
type hypervisor struct {
	mu       sync.Mutex
	machines map[string]string
	refused  bool
	secret   string
}

func (h *hypervisor) ProvisionSteps() []provision.Step[*dynamicRecord] {
	type call = provision.Context[*dynamicRecord]

	return []provision.Step[*dynamicRecord]{
		provision.NewStep("retry", func(context.Context, *zap.Logger, call) error {
			h.mu.Lock()
			defer h.mu.Unlock()

			if !h.refused {
				h.refused = true

				return provision.NewRetryErrorf(100*time.Millisecond, "not yet")
			}

			return nil
		}),
		provision.NewStep("join", func(_ context.Context, _ *zap.Logger, c call) error { return h.joins(c) }),
		provision.NewStep("patch", func(ctx context.Context, _ *zap.Logger, c call) error {
			return c.CreateConfigPatch(ctx, c.GetRequestID(), []byte("machine: {}"))
		}),
		provision.NewStep("create", func(ctx context.Context, logger *zap.Logger, c call) error {
			id, err := c.GenerateSchematicID(ctx, logger, provision.WithoutConnectionParams(), provision.WithExtraExtensions("siderolabs/qemu-guest-agent"))
			if err != nil || len(id) != 64 {
				return fmt.Errorf("the schematic is %q: %w", id, err)
			}

			h.mu.Lock()
			defer h.mu.Unlock()

			if h.machines[c.GetRequestID()] == "" {
				h.machines[c.GetRequestID()] = uuid.NewString()
			}

			c.SetMachineUUID(h.machines[c.GetRequestID()])
			c.SetMachineInfraID("vm-" + c.GetRequestID())
			c.State.TypedSpec().Value.Connected = true

			return nil
		}),
	}
}

// joins looks at the parameters that a virtual machine is started with.
func (h *hypervisor) joins(c provision.Context[*dynamicRecord]) error {
	if !c.ConnectionParams.CustomDataEncoded || c.ConnectionParams.JoinConfig == "" {
		return errors.New("no join configuration")
	}

	for _, arg := range c.ConnectionParams.KernelArgs {
		address, ok := strings.CutPrefix(arg, "siderolink.api=")
		if !ok {
			continue
		}

		parsed, err := url.Parse(address)
		if err != nil {
			return err
		}

		token, err := jointoken.Parse(parsed.Query().Get(siderolink.JoinTokenQueryParam))
		if err != nil {
			return err
		}

		if token.Version != jointoken.Version2 || !token.IsValid(h.secret) || token.ExtraData[omnires.LabelMachineRequest] != c.GetRequestID() {
			return fmt.Errorf("the token is %+v", token)
		}

		return nil
	}

	return fmt.Errorf("no address in %v", c.ConnectionParams.KernelArgs)
}

func (h *hypervisor) Deprovision(_ context.Context, _ *zap.Logger, _ *dynamicRecord, request *infrares.MachineRequest) error {
	h.mu.Lock()
	defer h.mu.Unlock()

	delete(h.machines, request.Metadata().ID())

	return nil
}

func (h *hypervisor) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()

	return len(h.machines)
}

// TestOmniSDKProvider runs a provider made with Omni's SDK: registration, heartbeat, requests up and down.
func TestOmniSDKProvider(t *testing.T) {
	key := environment(t, "DYNAMIC_SERVICE_ACCOUNT_KEY")
	st, operator, ctx := omniClientWith(t, key).Omni().State(), operatorState(t), bounded(t)

	config, err := safe.StateGetByID[*siderolink.ProviderJoinConfig](ctx, st, dynamicProvider)
	if err != nil {
		t.Fatal(err)
	}

	host := &hypervisor{machines: map[string]string{}, secret: config.TypedSpec().Value.JoinToken}

	provider, err := infra.NewProvider(dynamicProvider, host, infra.ProviderConfig{Name: "Dynamic", Schema: schema})
	if err != nil {
		t.Fatal(err)
	}

	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)

	go func() {
		ended <- provider.Run(running, zap.NewNop(),
			infra.WithOmniEndpoint(environment(t, "OMNI_ENDPOINT")),
			infra.WithClientOptions(client.WithServiceAccount(key)),
			infra.WithHealthCheckInterval(100*time.Millisecond),
			infra.WithHealthCheckFunc(func(context.Context) error { return errors.New("a fan is slow") }),
			infra.WithEncodeRequestIDsIntoTokens(),
			infra.WithVersion("v9.9.9"),
		)
	}()

	t.Cleanup(func() {
		stop()

		if err := <-ended; err != nil && running.Err() == nil {
			t.Errorf("the provider ended: %v", err)
		}
	})

	t.Run("registers", func(t *testing.T) { sdkRegisters(t, operator) })
	t.Run("beats", func(t *testing.T) { sdkBeats(t, operator) })

	set := omnires.NewMachineRequestSet("set")
	set.TypedSpec().Value.ProviderId = dynamicProvider
	set.TypedSpec().Value.MachineCount = 3
	set.TypedSpec().Value.TalosVersion = strings.TrimPrefix(talosVersion, "v")
	set.TypedSpec().Value.ProviderData = "cores: 4\n"

	t.Run("is asked by its schema", func(t *testing.T) {
		wrong := omnires.NewMachineRequestSet("wrong")
		wrong.TypedSpec().Value.ProviderId = dynamicProvider
		wrong.TypedSpec().Value.TalosVersion = set.TypedSpec().Value.TalosVersion
		wrong.TypedSpec().Value.ProviderData = "cores: 0\n"

		err := operator.Create(bounded(t), wrong)
		expect(t, "no cores", err, codes.InvalidArgument)

		if err != nil && !strings.Contains(err.Error(), `config value ".cores": must be at least 1`) {
			t.Errorf("it says: %v", err)
		}
	})
	t.Run("answers requests", func(t *testing.T) {
		if err := operator.Create(bounded(t), set); err != nil {
			t.Fatal(err)
		}

		requests(t, operator, st, host, 3)
	})
	t.Run("scales down", func(t *testing.T) {
		if _, err := safe.StateUpdateWithConflicts(bounded(t), operator, set.Metadata(), func(res *omnires.MachineRequestSet) error {
			res.TypedSpec().Value.MachineCount = 1

			return nil
		}); err != nil {
			t.Fatal(err)
		}

		requests(t, operator, st, host, 1)
	})
	t.Run("removes all", func(t *testing.T) {
		if err := operator.TeardownAndDestroy(bounded(t), set.Metadata()); err != nil {
			t.Fatal(err)
		}

		requests(t, operator, st, host, 0)
	})
}

func sdkRegisters(t *testing.T, operator state.State) {
	t.Helper()

	eventually(t, "its status is there", func() error {
		got, err := safe.StateGetByID[*infrares.ProviderStatus](bounded(t), operator, dynamicProvider)
		if err != nil {
			return err
		}

		if got.TypedSpec().Value.Name != "Dynamic" || got.TypedSpec().Value.Version != "v9.9.9" {
			t.Errorf("stored is %v", got.TypedSpec().Value)
		}

		return nil
	})
}

func sdkBeats(t *testing.T, operator state.State) {
	t.Helper()

	var first time.Time

	eventually(t, "it beats", func() error {
		got, err := safe.StateGetByID[*infrares.ProviderHealthStatus](bounded(t), operator, dynamicProvider)
		if err != nil {
			return err
		}

		at := got.TypedSpec().Value.LastHeartbeatTimestamp.AsTime()
		if first.IsZero() {
			first = at
		}

		if time.Since(at).Abs() > time.Minute || got.TypedSpec().Value.Error != "a fan is slow" ||
			got.Metadata().Owner() != dynamicProvider+".ProviderHealthStatusController" {
			t.Errorf("it is %v of %s", got.TypedSpec().Value, got.Metadata().Owner())
		}

		if !at.After(first) {
			return errors.New("it beat once")
		}

		return nil
	})
}

// requests waits until as many requests are answered and everything of the others is gone.
func requests(t *testing.T, operator, st state.State, host *hypervisor, want int) {
	t.Helper()

	ctx := bounded(t)

	eventually(t, "the requests are answered", func() error {
		// The provider sees them itself.
		list, err := safe.StateListAll[*infrares.MachineRequest](ctx, st)
		if err != nil {
			t.Fatal(err)
		}

		if list.Len() != want {
			return fmt.Errorf("%d requests, not %d", list.Len(), want)
		}

		for one := range list.All() {
			if err = answered(ctx, operator, one); err != nil {
				return err
			}
		}

		for _, counted := range []resource.Resource{
			infrares.NewMachineRequestStatus(""), infrares.NewConfigPatchRequest(""),
			typed.NewResource[privateSpec, dynamicExtension](
				resource.NewMetadata(infra.ResourceNamespace(dynamicProvider), infra.ResourceType("Record", dynamicProvider), "", resource.VersionUndefined), privateSpec{}),
		} {
			found, err := st.List(ctx, counted.Metadata())
			if err != nil {
				t.Fatal(err)
			}

			if len(found.Items) != want {
				return fmt.Errorf("%d of %s, not %d", len(found.Items), counted.Metadata().Type(), want)
			}
		}

		if host.count() != want {
			return fmt.Errorf("%d virtual machines, not %d", host.count(), want)
		}

		return nil
	})
}

func answered(ctx context.Context, operator state.State, request *infrares.MachineRequest) error {
	id := request.Metadata().ID()
	labels := request.Metadata().Labels().Raw()
	spec := request.TypedSpec().Value

	if !strings.HasPrefix(id, "set-") || labels[omnires.LabelInfraProviderID] != dynamicProvider ||
		labels[omnires.LabelMachineRequestSet] != "set" || spec.ProviderData != "cores: 4\n" || spec.TalosVersion != "1.13.7" {
		return fmt.Errorf("the request %s is %v, %v", id, spec, labels)
	}

	got, err := safe.StateGetByID[*infrares.MachineRequestStatus](ctx, operator, id)
	if err != nil {
		return err
	}

	if got.TypedSpec().Value.Stage != specs.MachineRequestStatusSpec_PROVISIONED || got.TypedSpec().Value.Id == "" {
		return fmt.Errorf("the answer to %s is %v", id, got.TypedSpec().Value)
	}

	return nil
}
