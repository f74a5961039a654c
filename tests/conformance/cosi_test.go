package conformance

import (
	"testing"

	"github.com/cosi-project/runtime/api/v1alpha1"
	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/resource/protobuf"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/cosi-project/runtime/pkg/state/conformance"
	"github.com/cosi-project/runtime/pkg/state/protobuf/client"
	"github.com/stretchr/testify/suite"
)

// TestCosiStateSuite is the COSI runtime's own suite, through its gRPC client.
func TestCosiStateSuite(t *testing.T) {
	if err := protobuf.RegisterResource(conformance.PathResourceType, &conformance.PathResource{}); err != nil {
		t.Fatal(err)
	}

	adapter := client.NewAdapter(v1alpha1.NewStateClient(dialOperator(t)))

	suite.Run(t, &conformance.StateSuite{
		State:      state.WrapCore(adapter),
		Namespaces: []resource.Namespace{"default", "conformance"},
	})
}
