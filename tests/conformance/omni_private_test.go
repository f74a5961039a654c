package conformance

import (
	"bytes"
	"testing"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/resource/meta"
	"github.com/cosi-project/runtime/pkg/resource/protobuf"
	"github.com/cosi-project/runtime/pkg/resource/typed"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/infra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
)

// privateProvider is the provider that run.sh makes: types of resources are fixed when the program starts.
const privateProvider = "conformance"

// The private record of the provider; any message does.
type (
	privateSpec      = protobuf.ResourceSpec[specs.MachineSpec, *specs.MachineSpec]
	privateExtension struct{}
	privateRecord    = typed.Resource[privateSpec, privateExtension]
)

var privateType = infra.ResourceType("Record", privateProvider)

func (privateExtension) ResourceDefinition() meta.ResourceDefinitionSpec {
	return meta.ResourceDefinitionSpec{Type: privateType, DefaultNamespace: infra.ResourceNamespace(privateProvider)}
}

func private(namespace, typ, id string) *privateRecord {
	return typed.NewResource[privateSpec, privateExtension](
		resource.NewMetadata(namespace, typ, id, resource.VersionUndefined),
		protobuf.NewResourceSpec(&specs.MachineSpec{}),
	)
}

func record(id string) *privateRecord {
	return private(infra.ResourceNamespace(privateProvider), privateType, id)
}

func init() {
	if err := protobuf.RegisterResource(privateType, &privateRecord{}); err != nil {
		panic(err)
	}
}

// TestOmniPrivateRecords are of the provider alone: any type that ends as its should, any content.
func TestOmniPrivateRecords(t *testing.T) {
	st, ctx := omniState(t), bounded(t)

	one := record("one")
	one.TypedSpec().Value.ManagementAddress = "10.0.0.1"

	if err := st.Create(ctx, one, state.WithCreateOwner("me")); err != nil {
		t.Fatal(err)
	}

	// No label is forced on what is private.
	got, err := safe.StateGetByID[*privateRecord](ctx, st, "one")
	if err != nil {
		t.Fatal(err)
	}

	if !got.Metadata().Labels().Empty() || got.Metadata().Owner() != "me" || got.TypedSpec().Value.ManagementAddress != "10.0.0.1" {
		t.Errorf("stored is %v", got)
	}

	sent, err := protobuf.FromResource(one)
	if err != nil {
		t.Fatal(err)
	}

	want, err := sent.Marshal()
	if err != nil {
		t.Fatal(err)
	}

	raw := operatorGet(t, infra.ResourceNamespace(privateProvider), privateType, "one")
	if !bytes.Equal(raw.Spec.ProtoSpec, want.Spec.ProtoSpec) || raw.Spec.YamlSpec != want.Spec.YamlSpec {
		t.Errorf("stored is %v, sent was %v", raw.Spec, want.Spec)
	}

	if err = st.Update(ctx, got); !state.IsOwnerConflictError(err) {
		t.Errorf("as another owner: %v", err)
	}

	expect(t, "as another owner", st.Destroy(ctx, one.Metadata()), codes.PermissionDenied)

	if _, err = st.Teardown(ctx, one.Metadata(), state.WithTeardownOwner("me")); err != nil {
		t.Error(err)
	}

	if err = st.Destroy(ctx, one.Metadata(), state.WithDestroyOwner("me")); err != nil {
		t.Error(err)
	}
}

// TestOmniLease is how two providers with one key agree who works: compare and swap, and a watch.
func TestOmniLease(t *testing.T) {
	const rounds = 20

	ctx := bounded(t)
	first, second := omniState(t), omniState(t)
	lease := record("lease")

	ch := make(chan state.Event)
	if err := second.Watch(ctx, lease.Metadata(), ch); err != nil {
		t.Fatal(err)
	}

	if event := <-ch; event.Type != state.Destroyed {
		t.Fatalf("before: %v", event)
	}

	if err := first.Create(ctx, lease); err != nil {
		t.Fatal(err)
	}

	if event := <-ch; event.Type != state.Created {
		t.Fatalf("after the creation: %v", event)
	}

	if err := second.Create(ctx, record("lease")); !state.IsConflictError(err) {
		t.Fatalf("the second holder: %v", err)
	}

	var group errgroup.Group

	for _, st := range []state.State{first, second} {
		group.Go(func() error {
			for range rounds {
				_, err := safe.StateUpdateWithConflicts(ctx, st, lease.Metadata(), func(res *privateRecord) error {
					res.TypedSpec().Value.ManagementAddress += "x"

					return nil
				})
				if err != nil {
					return err
				}
			}

			return nil
		})
	}

	for version := 2; version <= 2*rounds+1; version++ {
		select {
		case event := <-ch:
			if event.Type != state.Updated || event.Resource.Metadata().Version().Value() != uint64(version) {
				t.Fatalf("change %d: %v %s", version, event.Type, event.Resource.Metadata().Version())
			}
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}

	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}

	got, err := safe.StateGetByID[*privateRecord](ctx, first, "lease")
	if err != nil {
		t.Fatal(err)
	}

	if count := len(got.TypedSpec().Value.ManagementAddress); count != 2*rounds {
		t.Errorf("%d of %d changes are there", count, 2*rounds)
	}

	if err = first.Destroy(ctx, lease.Metadata()); err != nil {
		t.Error(err)
	}
}
