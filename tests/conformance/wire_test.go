package conformance

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cosi-project/runtime/api/v1alpha1"
	controllers "github.com/cosi-project/runtime/pkg/controller/conformance"
	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const wireNamespace = resource.Namespace("wire")

func wireState(t *testing.T) state.State {
	t.Helper()

	st := operatorState(t)
	purge(t, st, []resource.Namespace{wireNamespace}, suiteTypes...)

	return st
}

func newStr(id, value string) *controllers.StrResource {
	return controllers.NewStrResource(wireNamespace, id, value)
}

// TestWireLabelQueries asks the hub and Go's own matcher the same random questions.
func TestWireLabelQueries(t *testing.T) {
	st, ctx := wireState(t), bounded(t)
	random := rand.New(rand.NewPCG(1, 2))
	keys := []string{"a", "b", "c", ""}
	values := []string{"", "x", "y", "10", "2", "-3", "3 k", "3Ki", "1GiB", "1g", " 7", "7m b", "k", "9z", "ä"}
	pick := func(from []string) string { return from[random.IntN(len(from))] }

	var stored []*controllers.StrResource

	for i := range 60 {
		one := newStr(fmt.Sprintf("labels-%02d", i), "")
		for range random.IntN(4) {
			one.Metadata().Labels().Set(pick(keys), pick(values))
		}

		if err := st.Create(ctx, one); err != nil {
			t.Fatal(err)
		}

		stored = append(stored, one)
	}

	for i := range 500 {
		var (
			queries resource.LabelQueries
			opts    []state.ListOption
		)

		for range 1 + random.IntN(2) {
			var query resource.LabelQuery

			for range 1 + random.IntN(3) {
				term := resource.LabelTerm{
					Key:    pick(keys),
					Op:     resource.LabelOp(random.IntN(int(resource.LabelOpLTENumeric) + 1)),
					Invert: random.IntN(3) == 0,
				}

				if term.Op != resource.LabelOpExists {
					term.Value = []string{pick(values)}
				}

				if term.Op == resource.LabelOpIn {
					term.Value = append(term.Value, pick(values))
				}

				query.Terms = append(query.Terms, term)
			}

			queries = append(queries, query)
			opts = append(opts, state.WithLabelQuery(resource.RawLabelQuery(query)))
		}

		var want []string

		for _, one := range stored {
			if queries.Matches(*one.Metadata().Labels()) {
				want = append(want, one.Metadata().ID())
			}
		}

		list, err := st.List(ctx, newStr("", "").Metadata(), opts...)
		if err != nil {
			t.Fatal(err)
		}

		if got := ids(list); !slices.Equal(got, want) {
			t.Fatalf("question %d, %+v: the hub says %v, Go says %v", i, queries, got, want)
		}
	}
}

// TestWireIDQueries asks for ids by the expressions that Go programs write.
func TestWireIDQueries(t *testing.T) {
	st, ctx := wireState(t), bounded(t)
	// Ids are ASCII: of other letters the hub's expressions see the bytes, see README.md.
	names := []string{"a", "A", "machine-1", "machine-22", "00000000-0000-4000-8000-000000000001", "x.y", "x/y", "a b"}

	for _, name := range names {
		if err := st.Create(ctx, newStr(name, "")); err != nil {
			t.Fatal(err)
		}
	}

	slices.Sort(names)

	for _, pattern := range []string{
		`a`, `^a$`, `(?i)^a$`, `^machine-\d+$`, `^machine-[0-9]{2}$`, `^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`,
		`\w`, `^.$`, `.`, `x[./]y`, `^` + regexp.QuoteMeta("x.y") + `$`, `^` + regexp.QuoteMeta("a b") + `$`,
		`[[:upper:]]`, `\s`, `a|x`, `^(?:a|b)$`, `\x61`, `(?s).+`, `$`, `^`, `\Aa\z`, `[^a-z]`,
	} {
		re := regexp.MustCompile(pattern)

		var want []string

		for _, name := range names {
			if re.MatchString(name) {
				want = append(want, name)
			}
		}

		list, err := st.List(ctx, newStr("", "").Metadata(), state.WithIDQuery(resource.IDRegexpMatch(re)))
		if err != nil {
			t.Errorf("%s: %v", pattern, err)

			continue
		}

		if got := ids(list); !slices.Equal(got, want) {
			t.Errorf("%s: the hub says %v, Go says %v", pattern, got, want)
		}
	}
}

func ids(list resource.List) []string {
	var ids []string
	for _, one := range list.Items {
		ids = append(ids, one.Metadata().ID())
	}

	return ids
}

// TestWireCompareAndSwap lets several clients count in one resource.
func TestWireCompareAndSwap(t *testing.T) {
	const clients, rounds = 8, 20

	counter := controllers.NewIntResource(wireNamespace, "counter", 0)
	ctx := bounded(t)

	if err := wireState(t).Create(ctx, counter); err != nil {
		t.Fatal(err)
	}

	var group errgroup.Group

	for range clients {
		st := operatorState(t)

		group.Go(func() error {
			for range rounds {
				_, err := safe.StateUpdateWithConflicts(ctx, st, counter.Metadata(), func(r *controllers.IntResource) error {
					r.SetValue(r.Value() + 1)

					return nil
				})
				if err != nil {
					return err
				}
			}

			return nil
		})
	}

	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}

	got, err := safe.StateGet[*controllers.IntResource](ctx, operatorState(t), counter.Metadata())
	if err != nil {
		t.Fatal(err)
	}

	if got.Value() != clients*rounds || got.Metadata().Version().Value() != clients*rounds+1 {
		t.Errorf("counted %d, version %s", got.Value(), got.Metadata().Version())
	}
}

// TestWireBigResources reads with the limits that a Go client has by itself (4 MiB a message).
func TestWireBigResources(t *testing.T) {
	st, ctx := wireState(t), bounded(t)
	// Four of them are less than the limit, but not with what is around them.
	value := strings.Repeat("x", 1<<20-64)

	for i := range 8 {
		if err := st.Create(ctx, newStr(fmt.Sprintf("big-%d", i), value)); err != nil {
			t.Fatal(err)
		}
	}

	var group errgroup.Group

	group.SetLimit(64)

	for i := range 2000 {
		group.Go(func() error { return st.Create(ctx, newStr(fmt.Sprintf("small-%d", i), "")) })
	}

	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}

	list, err := st.List(ctx, newStr("", "").Metadata())
	if err != nil || len(list.Items) != 2008 {
		t.Fatalf("%d resources, %v", len(list.Items), err)
	}

	ch := make(chan []state.Event)
	if err := st.WatchKindAggregated(ctx, newStr("", "").Metadata(), ch, state.WithBootstrapContents(true)); err != nil {
		t.Fatal(err)
	}

	for created := 0; ; {
		batch := <-ch
		t.Logf("%d events", len(batch))

		for _, event := range batch {
			switch event.Type {
			case state.Created:
				created++
			case state.Bootstrapped:
				if created != 2008 {
					t.Errorf("%d resources were there", created)
				}

				return
			default:
				t.Fatalf("%v after %d resources: %v", event.Type, created, event.Error)
			}
		}
	}
}

// TestWireErrors are answers that a client tells apart by their codes.
func TestWireErrors(t *testing.T) {
	wireState(t)

	raw, ctx := v1alpha1.NewStateClient(dialOperator(t)), bounded(t)
	whole := func() *v1alpha1.Resource {
		return &v1alpha1.Resource{
			Metadata: &v1alpha1.Metadata{
				Namespace: wireNamespace, Type: controllers.StrResourceType, Id: "errors", Version: "undefined",
				Phase: "running", Created: timestamppb.Now(), Updated: timestamppb.Now(),
			},
			Spec: &v1alpha1.Spec{ProtoSpec: []byte("x")},
		}
	}
	create := func(change func(*v1alpha1.Resource)) error {
		r := whole()
		change(r)

		_, err := raw.Create(ctx, &v1alpha1.CreateRequest{Resource: r, Options: &v1alpha1.CreateOptions{}})

		return err
	}
	update := func(version, phase, owner string) error {
		r := whole()
		r.Metadata.Version = version

		_, err := raw.Update(ctx, &v1alpha1.UpdateRequest{
			NewResource: r, Options: &v1alpha1.UpdateOptions{Owner: owner, ExpectedPhase: &phase},
		})

		return err
	}
	watch := func(options *v1alpha1.WatchOptions) error {
		stream, err := raw.Watch(ctx, &v1alpha1.WatchRequest{
			Namespace: wireNamespace, Type: controllers.StrResourceType, Options: options, ApiVersion: 1,
		})
		if err == nil {
			_, err = stream.Recv()
		}

		return err
	}

	check := func(what string, err error, want codes.Code) {
		t.Helper()

		if got := status.Code(err); got != want {
			t.Errorf("%s: %v, not %v: %v", what, got, want, err)
		}
	}

	_, err := raw.Create(ctx, &v1alpha1.CreateRequest{})
	check("nothing to create", err, codes.Unknown)
	check("no spec", create(func(r *v1alpha1.Resource) { r.Spec = nil }), codes.Unknown)
	check("no metadata", create(func(r *v1alpha1.Resource) { r.Metadata = nil }), codes.Unknown)
	check("create", create(func(*v1alpha1.Resource) {}), codes.OK)
	check("create again", create(func(*v1alpha1.Resource) {}), codes.AlreadyExists)
	check("update with an old version", update("7", "running", ""), codes.FailedPrecondition)
	check("update without a version", update("undefined", "running", ""), codes.FailedPrecondition)
	check("update as another owner", update("1", "running", "me"), codes.PermissionDenied)
	check("update in another phase", update("1", "tearingDown", ""), codes.InvalidArgument)
	check("update", update("1", "running", ""), codes.OK)
	check("watch from a bookmark that is none", watch(&v1alpha1.WatchOptions{StartFromBookmark: []byte("x")}), codes.FailedPrecondition)
	check("watch from the first change of a long history", watch(&v1alpha1.WatchOptions{StartFromBookmark: make([]byte, 8)}), codes.FailedPrecondition)
	check("tail events", watch(&v1alpha1.WatchOptions{TailEvents: 1}), codes.Unknown)

	_, err = raw.Get(ctx, &v1alpha1.GetRequest{Namespace: wireNamespace, Type: controllers.StrResourceType, Id: "none"})
	check("get what is not there", err, codes.NotFound)

	_, err = raw.Destroy(ctx, &v1alpha1.DestroyRequest{Namespace: wireNamespace, Type: controllers.StrResourceType, Id: "none"})
	check("destroy what is not there", err, codes.NotFound)
}

// TestWireSpecs sees that both forms of a spec come back byte for byte, and what the store sets itself.
func TestWireSpecs(t *testing.T) {
	wireState(t)

	raw, ctx := v1alpha1.NewStateClient(dialOperator(t)), bounded(t)
	spec := &v1alpha1.Spec{ProtoSpec: []byte{0xff, 0x00, 0x7f}, YamlSpec: "a: [1, ä]\n"}
	old := timestamppb.New(time.Unix(1, 0))

	created, err := raw.Create(ctx, &v1alpha1.CreateRequest{
		Resource: &v1alpha1.Resource{
			Metadata: &v1alpha1.Metadata{
				Namespace: wireNamespace, Type: controllers.StrResourceType, Id: "specs", Version: "undefined",
				Phase: "running", Created: old, Updated: old, Finalizers: []string{"b", "a"},
				Labels: map[string]string{"k": "", "l": "v"}, Annotations: map[string]string{"n": "v"},
			},
			Spec: spec,
		},
		Options: &v1alpha1.CreateOptions{Owner: "me"},
	})
	if err != nil {
		t.Fatal(err)
	}

	got, err := raw.Get(ctx, &v1alpha1.GetRequest{Namespace: wireNamespace, Type: controllers.StrResourceType, Id: "specs"})
	if err != nil {
		t.Fatal(err)
	}

	if !created.Resource.EqualVT(got.Resource) {
		t.Errorf("created %v, got %v", created.Resource, got.Resource)
	}

	md := got.Resource.Metadata
	if !bytes.Equal(got.Resource.Spec.ProtoSpec, spec.ProtoSpec) || got.Resource.Spec.YamlSpec != spec.YamlSpec {
		t.Errorf("the spec is %v", got.Resource.Spec)
	}

	if md.Version != "1" || md.Owner != "me" || !slices.Equal(md.Finalizers, []string{"b", "a"}) || md.Labels["l"] != "v" ||
		len(md.Labels) != 2 || md.Annotations["n"] != "v" {
		t.Errorf("the metadata is %v", md)
	}

	if time.Since(md.Created.AsTime()).Abs() > time.Minute {
		t.Errorf("created at %v", md.Created.AsTime())
	}
}
