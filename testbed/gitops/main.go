// What GitOps tools make of our objects, by the engines that they use themselves: the Lua of Argo CD, the CEL, the kstatus
// and the server-side apply of Flux. One question as JSON on stdin, one answer as JSON on stdout.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type question struct {
	// A script of Argo CD.
	Script string `json:"script"`
	// Flux's healthCheckExprs for one kind.
	Exprs kustomize.HealthCheckExpressions `json:"exprs"`
	// Flux's ignore rules.
	Ignore  []ignoreRule                 `json:"ignore"`
	Objects []*unstructured.Unstructured `json:"objects"`
}

// What came of one object: an answer, or why there is none.
type answer struct {
	Answer any    `json:"answer,omitempty"`
	Error  string `json:"error,omitempty"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: gitops argo-health|argo-discovery|argo-action|flux-health|kstatus|flux-apply <question.json")
	}
	var asked question
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		return err
	}
	ask, err := asker(os.Args[1], &asked)
	if err != nil {
		return err
	}
	answers := make([]answer, len(asked.Objects))
	for i, object := range asked.Objects {
		said, err := ask(object)
		answers[i] = answer{Answer: said}
		if err != nil {
			answers[i] = answer{Error: err.Error()}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}

// How each object is asked about.
func asker(command string, asked *question) (func(*unstructured.Unstructured) (any, error), error) {
	switch command {
	case "argo-health":
		return func(object *unstructured.Unstructured) (any, error) { return argoHealth(object, asked.Script) }, nil
	case "argo-discovery":
		return func(object *unstructured.Unstructured) (any, error) { return runLua(object, asked.Script) }, nil
	case "argo-action":
		return func(object *unstructured.Unstructured) (any, error) { return argoAction(object, asked.Script) }, nil
	case "kstatus":
		return func(object *unstructured.Unstructured) (any, error) {
			result, err := status.Compute(object)
			if err != nil {
				return nil, err
			}
			return result.Status, nil
		}, nil
	case "flux-health":
		evaluator, err := cel.NewStatusEvaluator(&asked.Exprs)
		if err != nil {
			return nil, err
		}
		return func(object *unstructured.Unstructured) (any, error) {
			result, err := evaluator.Evaluate(context.Background(), object)
			if err != nil {
				return nil, err
			}
			return result.Status, nil
		}, nil
	case "flux-apply":
		return fluxApply(asked.Ignore)
	default:
		return nil, fmt.Errorf("no command %q", command)
	}
}
