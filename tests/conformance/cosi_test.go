package conformance

import (
	"context"
	"errors"
	"testing"

	"github.com/cosi-project/runtime/api/v1alpha1"
	controllers "github.com/cosi-project/runtime/pkg/controller/conformance"
	"github.com/cosi-project/runtime/pkg/controller/runtime"
	"github.com/cosi-project/runtime/pkg/controller/runtime/options"
	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/resource/protobuf"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/cosi-project/runtime/pkg/state/conformance"
	"github.com/cosi-project/runtime/pkg/state/protobuf/client"
	"github.com/stretchr/testify/suite"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

func init() {
	err := errors.Join(
		protobuf.RegisterResource(conformance.PathResourceType, &conformance.PathResource{}),
		protobuf.RegisterResource(controllers.IntResourceType, &controllers.IntResource{}),
		protobuf.RegisterResource(controllers.StrResourceType, &controllers.StrResource{}),
		protobuf.RegisterResource(controllers.SentenceResourceType, &controllers.SentenceResource{}),
	)
	if err != nil {
		panic(err)
	}
}

// operatorState is the hub's store as Go programs see it, without access rules.
func operatorState(t *testing.T) state.State {
	t.Helper()

	return state.WrapCore(client.NewAdapter(v1alpha1.NewStateClient(dialOperator(t))))
}

// TestCosiState is the COSI runtime's own suite of a state, through its gRPC client.
func TestCosiState(t *testing.T) {
	st := operatorState(t)
	purge(t, st, []resource.Namespace{"default", "conformance"}, conformance.PathResourceType)

	suite.Run(t, &conformance.StateSuite{State: st, Namespaces: []resource.Namespace{"default", "conformance"}})
}

// TestCosiRuntime is the COSI runtime's own suite of its controllers, run on the hub's state: what providers are
// made of.
func TestCosiRuntime(t *testing.T) {
	runControllers(t, false)
}

// TestCosiRuntimeCached is the same suite where reads come from a cache that watches fill.
func TestCosiRuntimeCached(t *testing.T) {
	runControllers(t, true)
}

var (
	suiteNamespaces = []resource.Namespace{
		"default", "ints", "strings", "sentences", "source", "target", "source1", "source2", "metrics",
		"modify-with-result-source", "modify-with-result-target", "q-int", "q-str", "q-sleep-in", "q-sleep-out",
		"q-fail-in", "q-fail-out",
	}
	suiteTypes = []resource.Type{
		controllers.IntResourceType, controllers.StrResourceType, controllers.SentenceResourceType,
	}
)

func runControllers(t *testing.T, cached bool) {
	t.Helper()

	st := operatorState(t)

	var opts []options.Option

	if cached {
		opts = append(opts, options.WithWarnOnUncachedReads(true))

		for _, one := range []struct {
			namespace resource.Namespace
			typ       resource.Type
		}{
			{"default", controllers.IntResourceType},
			{"default", controllers.StrResourceType},
			{"ints", controllers.IntResourceType},
			{"strings", controllers.StrResourceType},
			{"sentences", controllers.SentenceResourceType},
			{"source", controllers.IntResourceType},
			{"target", controllers.IntResourceType},
			{"source1", controllers.IntResourceType},
			{"source2", controllers.IntResourceType},
			{"modify-with-result-source", controllers.StrResourceType},
			{"modify-with-result-target", controllers.StrResourceType},
			{"q-int", controllers.IntResourceType},
			{"q-str", controllers.StrResourceType},
			{"metrics", controllers.IntResourceType},
			{"metrics", controllers.StrResourceType},
			{"q-sleep-in", controllers.IntResourceType},
			{"q-sleep-out", controllers.StrResourceType},
		} {
			opts = append(opts, options.WithCachedResource(one.namespace, one.typ))
		}
	}

	suite.Run(t, &controllers.RuntimeSuite{
		MetricsReadCacheEnabled: cached,
		SetupRuntime: func(rs *controllers.RuntimeSuite) {
			// Each test of the suite expects an empty state.
			purge(rs.T(), st, suiteNamespaces, suiteTypes...)

			rs.State = st

			engine, err := runtime.NewRuntime(st, zap.NewNop(), opts...)
			rs.Require().NoError(err)

			rs.Runtime = engine
		},
	})
}

// purge destroys every resource of these namespaces and types, whoever holds it.
func purge(t *testing.T, st state.State, namespaces []resource.Namespace, types ...resource.Type) {
	t.Helper()

	// The context of a suite's test may have ended.
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()

	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(64)

	for _, namespace := range namespaces {
		for _, typ := range types {
			list, err := st.List(ctx, resource.NewMetadata(namespace, typ, "", resource.VersionUndefined))
			if err != nil {
				t.Fatal(err)
			}

			for _, one := range list.Items {
				group.Go(func() error { return remove(ctx, st, one.Metadata()) })
			}
		}
	}

	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

func remove(ctx context.Context, st state.State, md *resource.Metadata) error {
	for _, finalizer := range *md.Finalizers() {
		if err := st.RemoveFinalizer(ctx, md, finalizer); err != nil {
			return err
		}
	}

	return st.Destroy(ctx, md, state.WithDestroyOwner(md.Owner()))
}
