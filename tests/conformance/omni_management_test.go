package conformance

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/go-api-signature/pkg/pgp"
	"github.com/siderolabs/go-api-signature/pkg/serviceaccount"
	"github.com/siderolabs/omni/client/pkg/access"
	"github.com/siderolabs/omni/client/pkg/client"
	"github.com/siderolabs/omni/client/pkg/omni/resources/infra"
	omnires "github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	"google.golang.org/grpc/codes"
)

// adminClient is Omni's client as an administrator.
func adminClient(t *testing.T, name string) *client.Client {
	t.Helper()

	admin := omniClientWith(t, bootlace(t, "hub", "admin", "create", name))

	eventually(t, "the administrator's key works", func() error {
		_, err := admin.Omni().State().List(bounded(t), infra.NewProvider("").Metadata())

		return err
	})

	return admin
}

// goKey is a service account's key as omnictl makes it.
func goKey(t *testing.T, account access.ServiceAccount) (*pgp.Key, string) {
	t.Helper()

	key, err := pgp.GenerateKey(account.BaseName, "linux/amd64", account.FullID(), 365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}

	public, err := key.ArmorPublic()
	if err != nil {
		t.Fatal(err)
	}

	return key, public
}

// TestOmniInfraProviderCommands are the calls of `omnictl infraprovider`: create, renewkey, list, delete. The keys
// are made by Go.
func TestOmniInfraProviderCommands(t *testing.T) {
	const id = "by-omnictl"

	admin, ctx := adminClient(t, "omnictl"), bounded(t)
	account := access.ParseServiceAccountFromName(access.InfraProviderServiceAccountPrefix + id)

	if err := admin.Omni().State().Create(ctx, infra.NewProvider(id)); err != nil {
		t.Fatal(err)
	}

	use := func(key *pgp.Key) state.State {
		encoded, err := serviceaccount.Encode(account.NameWithPrefix(), key)
		if err != nil {
			t.Fatal(err)
		}

		return omniClientWith(t, encoded).Omni().State()
	}
	get := func(st state.State) error {
		_, err := st.Get(ctx, siderolink.NewProviderJoinConfig(id).Metadata())

		return err
	}

	key, public := goKey(t, account)

	keyID, err := admin.Management().CreateServiceAccount(ctx, account.NameWithPrefix(), public, "InfraProvider", false)
	if err != nil {
		t.Fatal(err)
	}

	if keyID != key.Fingerprint() {
		t.Errorf("the key's id is %s, not %s", keyID, key.Fingerprint())
	}

	first := use(key)
	eventually(t, "the first key works", func() error { return get(first) })

	key, public = goKey(t, account)
	if _, err = admin.Management().RenewServiceAccount(ctx, account.NameWithPrefix(), public); err != nil {
		t.Fatal(err)
	}

	second := use(key)
	eventually(t, "the second key works", func() error { return errors.Join(get(second), get(first)) })

	if err = second.Create(ctx, infra.NewProviderStatus(id)); err != nil {
		t.Fatal(err)
	}

	eventually(t, "it is listed", func() error {
		list, err := safe.StateListAll[*omnires.InfraProviderCombinedStatus](ctx, admin.Omni().State())
		if err != nil {
			t.Fatal(err)
		}

		for one := range list.All() {
			if one.Metadata().ID() == id {
				return nil
			}
		}

		return errors.New("it is not")
	})

	_, public = goKey(t, account)
	_, err = omniClient(t).Management().CreateServiceAccount(ctx, "infra-provider:evil", public, "InfraProvider", false)
	expect(t, "a provider makes an account", err, codes.PermissionDenied)

	removing, cancel := context.WithTimeout(ctx, lookedFor)
	defer cancel()

	if err = admin.Omni().State().TeardownAndDestroy(removing, infra.NewProvider(id).Metadata()); err != nil {
		t.Fatal(err)
	}

	eventually(t, "its keys end", func() error {
		if err := get(first); code(err) != codes.Unauthenticated && code(err) != codes.PermissionDenied {
			return errors.Join(errors.New("they go on"), err)
		}

		return nil
	})
}
