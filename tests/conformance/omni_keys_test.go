package conformance

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/go-api-signature/pkg/serviceaccount"
	"github.com/siderolabs/omni/client/pkg/omni/resources/infra"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	"google.golang.org/grpc/codes"
)

// bootlace runs a command of the operator's and returns the key that it prints, if any.
func bootlace(t *testing.T, arguments ...string) string {
	t.Helper()

	command := exec.CommandContext(bounded(t), environment(t, "BOOTLACE"), append(arguments, "-c", environment(t, "BOOTLACE_CONFIG"))...)

	output, err := command.Output()
	if err != nil {
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("%v: %v: %s", arguments, err, failed.Stderr)
		}

		t.Fatal(err)
	}

	for line := range strings.Lines(string(output)) {
		if _, key, ok := strings.Cut(strings.TrimSpace(line), serviceaccount.OmniServiceAccountKeyEnvVar+"="); ok {
			return key
		}
	}

	return ""
}

// TestOmniKeysOfAProvider makes, renews and outlives keys, and removes the provider under its client.
func TestOmniKeysOfAProvider(t *testing.T) {
	const id = "short"

	ctx := bounded(t)
	first := omniClientWith(t, bootlace(t, "hub", "provider", "create", id)).Omni().State()
	get := func(st state.State) error {
		_, err := st.Get(ctx, siderolink.NewProviderJoinConfig(id).Metadata())

		return err
	}

	eventually(t, "the first key works", func() error { return get(first) })

	// The second lives long enough to be seen alive.
	second := omniClientWith(t, bootlace(t, "hub", "provider", "renewkey", id, "--ttl", "3s")).Omni().State()
	expect(t, "the second key", get(second), codes.OK)
	expect(t, "the first key beside it", get(first), codes.OK)

	status := infra.NewProviderStatus(id)
	if err := first.Create(ctx, status); err != nil {
		t.Fatal(err)
	}

	eventually(t, "the second key ends", func() error {
		err := get(second)
		if code(err) == codes.Unauthenticated {
			return nil
		}

		return errors.Join(errors.New("it goes on"), err)
	})
	expect(t, "the first key after it", get(first), codes.OK)

	// The watch of a provider that is removed does not matter; its calls fail.
	bootlace(t, "hub", "provider", "delete", id)
	expect(t, "the key of a removed provider", get(first), codes.Unauthenticated, codes.PermissionDenied)

	if _, err := operatorState(t).Get(ctx, status.Metadata()); !state.IsNotFoundError(err) {
		t.Errorf("its status is there: %v", err)
	}
}

// TestOmniAdmin is another role: everything that the operator may do.
func TestOmniAdmin(t *testing.T) {
	ctx := bounded(t)
	admin := adminClient(t, "conformance-admin").Omni().State()

	provider := infra.NewProvider("made-by-admin")
	if err := admin.Create(ctx, provider); err != nil {
		t.Fatal(err)
	}

	eventually(t, "it gets a join configuration", func() error {
		_, err := admin.Get(ctx, siderolink.NewProviderJoinConfig("made-by-admin").Metadata())

		return err
	})

	ctx, cancel := context.WithTimeout(ctx, lookedFor)
	defer cancel()

	if err := admin.TeardownAndDestroy(ctx, provider.Metadata()); err != nil {
		t.Fatal(err)
	}
}

// TestOmniSameUUID is a second machine that says to be the first one.
func TestOmniSameUUID(t *testing.T) {
	st, operator, ctx, id := omniState(t), operatorState(t), bounded(t), providerID(t)
	register(t, st)

	token := joinTokenOf(t, st, id)
	first := newMachine(t)

	answer, err := machineAPI(t).Provision(ctx, first.request(t, token))
	if err != nil {
		t.Fatal(err)
	}

	second := newMachine(t)
	second.id = first.id

	// Omni answers it; it is a PendingMachine with an annotation, and the first one's link is untouched.
	if _, err = machineAPI(t).Provision(ctx, second.request(t, token)); err != nil {
		expect(t, "the second machine", err, codes.PermissionDenied, codes.AlreadyExists, codes.FailedPrecondition)
	}

	again, err := machineAPI(t).Provision(ctx, first.request(t, ""))
	if err != nil || again.NodeAddressPrefix != answer.NodeAddressPrefix {
		t.Errorf("the first machine is now %v, %v", again, err)
	}

	_, err = machineAPI(t).Provision(ctx, second.request(t, ""))
	expect(t, "the second machine without a token", err, codes.PermissionDenied, codes.AlreadyExists, codes.FailedPrecondition)

	eventually(t, "the first machine is offered to the provider", func() error {
		_, err := operator.Get(ctx, infra.NewMachine(first.id).Metadata())

		return err
	})

	removeMachine(t, first.id)
}
