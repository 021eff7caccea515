package main

import (
	"context"
	"fmt"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/pkg/ssa"
	"github.com/fluxcd/pkg/ssa/jsondiff"
	"github.com/fluxcd/pkg/ssa/normalize"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The name and API group under which Flux applies.
const (
	controller = "kustomize-controller"
	group      = "kustomize.toolkit.fluxcd.io"
)

// One entry of a Kustomization's `ignore`.
type ignoreRule struct {
	Paths  []string           `json:"paths"`
	Target *jsondiff.Selector `json:"target"`
}

// Applies objects one by one as the kustomize-controller does: it takes over what kubectl wrote, compares a dry run with
// what is there, leaves alone what the rules name, and applies by force where something else differs.
func fluxApply(rules []ignoreRule) (func(*unstructured.Unstructured) (any, error), error) {
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 100, 100
	kube, err := client.New(config, client.Options{})
	if err != nil {
		return nil, err
	}
	manager := ssa.NewResourceManager(kube, (*polling.StatusPoller)(nil), ssa.Owner{Field: controller, Group: group})
	options := ssa.DefaultApplyOptions()
	for _, rule := range rules {
		options.DriftIgnoreRules = append(options.DriftIgnoreRules, jsondiff.IgnoreRule{Paths: rule.Paths, Selector: rule.Target})
	}
	options.Cleanup = ssa.ApplyCleanupOptions{
		Annotations: []string{"kubectl.kubernetes.io/last-applied-configuration"},
		FieldManagers: []ssa.FieldManager{
			{Name: "kubectl", OperationType: metav1.ManagedFieldsOperationApply},
			{Name: "kubectl", OperationType: metav1.ManagedFieldsOperationUpdate},
			{Name: "before-first-apply", OperationType: metav1.ManagedFieldsOperationUpdate},
			{Name: controller, OperationType: metav1.ManagedFieldsOperationUpdate},
		},
		Exclusions: map[string]string{group + "/ssa": "Merge"},
	}
	return func(object *unstructured.Unstructured) (any, error) {
		if err := normalize.Unstructured(object); err != nil {
			return nil, err
		}
		changes, err := manager.ApplyAll(context.Background(), []*unstructured.Unstructured{object}, options)
		if err != nil {
			return nil, err
		}
		if len(changes.Entries) != 1 {
			return nil, fmt.Errorf("%d changes of one object", len(changes.Entries))
		}
		return string(changes.Entries[0].Action), nil
	}, nil
}
