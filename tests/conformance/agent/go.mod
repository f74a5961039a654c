module bootlace/conformance/agent

go 1.26.5

require (
	github.com/jhump/grpctunnel v0.3.0
	github.com/siderolabs/talos-metal-agent v0.1.6
	google.golang.org/grpc v1.82.1
)

require (
	github.com/fullstorydev/grpchan v1.1.2 // indirect
	github.com/planetscale/vtprotobuf v0.6.1-0.20250313105119-ba97887b0a25 // indirect
	golang.org/x/net v0.55.0 // indirect
	golang.org/x/sys v0.45.0 // indirect
	golang.org/x/text v0.37.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260504160031-60b97b32f348 // indirect
	google.golang.org/protobuf v1.36.12-0.20260120151049-f2248ac996af // indirect
)
