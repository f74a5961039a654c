package conformance

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/resource/protobuf"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/pkg/omni/resources/infra"
	omnires "github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// spec is what the specs of all resources of Omni are.
type spec interface {
	GetValue() proto.Message
}

// TestOmniYAML sees that the hub renders specs with every field that Go knows, and keeps the message as it is.
func TestOmniYAML(t *testing.T) {
	operator := operatorState(t)

	for _, res := range []resource.Resource{
		infra.NewProviderStatus("yaml"),
		infra.NewProviderHealthStatus("yaml"),
		infra.NewMachineStatus("yaml"),
		infra.NewMachineRequest("yaml"),
		infra.NewMachineRequestStatus("yaml"),
		infra.NewMachineRegistration("yaml"),
		omnires.NewInfraMachineConfig("yaml"),
		omnires.NewInfraMachineBMCConfig("yaml"),
	} {
		t.Run(res.Metadata().Type(), func(t *testing.T) {
			message := res.Spec().(spec).GetValue()
			fill(message.ProtoReflect(), 3)
			checked(res)

			if err := operator.Create(bounded(t), res); err != nil {
				t.Fatal(err)
			}

			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), callTime)
				defer cancel()

				if err := operator.TeardownAndDestroy(ctx, res.Metadata()); err != nil && !state.IsNotFoundError(err) {
					t.Error(err)
				}
			})

			got, err := operator.Get(bounded(t), res.Metadata())
			if err != nil {
				t.Fatal(err)
			}

			if stored := got.Spec().(spec).GetValue(); !proto.Equal(stored, message) {
				t.Errorf("stored is %v, sent was %v", stored, message)
			}

			rendered(t, got)
		})
	}
}

// checked gives a possible value to what Omni checks, and so the hub.
func checked(res resource.Resource) {
	switch res := res.(type) {
	case *infra.MachineRequest:
		res.TypedSpec().Value.TalosVersion = "1.13.7"
	case *omnires.InfraMachineConfig:
		res.TypedSpec().Value.RequestedRebootId = "a: \"b\""
		res.TypedSpec().Value.PowerOffRequestId = "- c"
		res.TypedSpec().Value.ExtraKernelArgs = "a=\"b: c\" -- d"
	}
}

// fill gives every field a value that is not its default, to some depth.
func fill(message protoreflect.Message, depth int) {
	if stamp, ok := message.Interface().(*timestamppb.Timestamp); ok {
		proto.Merge(stamp, timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)))

		return
	}

	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)

		switch {
		case field.IsMap():
		case field.IsList():
			list := message.Mutable(field).List()
			if field.Message() == nil {
				list.Append(scalar(field))
			} else if depth > 0 {
				fill(list.AppendMutable().Message(), depth-1)
			}
		case field.Message() != nil:
			if depth > 0 {
				fill(message.Mutable(field).Message(), depth-1)
			}
		default:
			message.Set(field, scalar(field))
		}
	}
}

func scalar(field protoreflect.FieldDescriptor) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(7)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(7)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(7)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(7)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("bytes"))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("a: \"b\"\n- c\n")
	default:
		panic("no value for a field of kind " + field.Kind().String())
	}
}

// rendered compares the hub's YAML of a spec with Go's. Two differences are meant: the hub writes the names of
// enumerated values where Go writes numbers, and times as people read them where Go writes seconds.
func rendered(t *testing.T, res resource.Resource) {
	t.Helper()

	whole, err := protobuf.FromResource(res)
	if err != nil {
		t.Fatal(err)
	}

	want, err := whole.Marshal()
	if err != nil {
		t.Fatal(err)
	}

	md := res.Metadata()
	got := operatorGet(t, md.Namespace(), md.Type(), md.ID())

	var stored, made map[string]any
	if err = errors.Join(yaml.Unmarshal([]byte(got.Spec.YamlSpec), &stored), yaml.Unmarshal([]byte(want.Spec.YamlSpec), &made)); err != nil {
		t.Fatal(err)
	}

	numbered(stored, res.Spec().(spec).GetValue().ProtoReflect().Descriptor())

	for key := range made {
		if !reflect.DeepEqual(stored[key], made[key]) {
			t.Errorf("%s as YAML: %s is %#v, Go says %#v", md, key, stored[key], made[key])
		}
	}

	for key := range stored {
		if _, ok := made[key]; !ok {
			t.Errorf("%s as YAML: %s is %#v, Go has no such field", md, key, stored[key])
		}
	}
}

// numbered puts numbers in the place of names, and seconds in the place of times.
func numbered(stored map[string]any, message protoreflect.MessageDescriptor) {
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		key := strings.ReplaceAll(string(field.Name()), "_", "")

		switch value := stored[key].(type) {
		case string:
			if field.Enum() != nil {
				if known := field.Enum().Values().ByName(protoreflect.Name(value)); known != nil {
					stored[key] = int(known.Number())
				}
			}
		case time.Time:
			stored[key] = map[string]any{"seconds": int(value.Unix()), "nanos": value.Nanosecond()}
		case map[string]any:
			if field.Message() != nil && !field.IsMap() {
				numbered(value, field.Message())
			}
		case []any:
			for _, one := range value {
				if inner, ok := one.(map[string]any); ok && field.Message() != nil {
					numbered(inner, field.Message())
				}
			}
		}
	}
}
