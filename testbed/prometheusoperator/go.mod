// Pins the Prometheus operator: charts are tried against its definitions, in its example/prometheus-operator-crd folder.
module aether.dev/testbed/prometheusoperator

go 1.26.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
