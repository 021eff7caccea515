// Pins the Gateway API module: the test bed installs the CRDs from its config/crd/standard folder.
// A module of its own, so that its dependencies never move the control plane's. (1.7 asks for Go 1.27.)
module aether.dev/testbed/gatewayapi

go 1.26.0

require sigs.k8s.io/gateway-api v1.6.2
