package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	luajson "layeh.com/gopher-json"
)

// Runs a script as Argo CD does: with `package`, the base functions and `table`, no other library, a second of time, and
// the object in the global variable `obj`.
func runLua(object *unstructured.Unstructured, script string) (json.RawMessage, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return nil, err
		}
	}
	timeout, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(timeout)
	state.SetGlobal("actionParams", state.NewTable())
	state.SetGlobal("obj", toLua(state, object.Object))
	if err := state.DoString(script); err != nil {
		if said := (*lua.ApiError)(nil); errors.As(err, &said) {
			return nil, errors.New(said.Object.String())
		}
		return nil, err
	}
	returned := state.Get(-1)
	if returned.Type() != lua.LTTable {
		return nil, fmt.Errorf("the script returned %s and no table", returned.Type())
	}
	return luajson.Encode(returned)
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case map[string]any:
		table := state.NewTable()
		for key, field := range value {
			table.RawSetString(key, toLua(state, field))
		}
		return table
	case []any:
		table := state.NewTable()
		for _, item := range value {
			table.Append(toLua(state, item))
		}
		return table
	case string:
		return lua.LString(value)
	case bool:
		return lua.LBool(value)
	case int64:
		return lua.LNumber(value)
	case float64:
		return lua.LNumber(value)
	default:
		return lua.LNil
	}
}

type health struct {
	Status  string `json:"status"`
	Message string `json:"message,omitempty"`
}

func argoHealth(object *unstructured.Unstructured, script string) (*health, error) {
	// Argo CD does not even ask the script then.
	if object.GetDeletionTimestamp() != nil {
		return &health{Status: "Progressing", Message: "Pending deletion"}, nil
	}
	said, err := runLua(object, script)
	if err != nil {
		return nil, err
	}
	result := &health{}
	return result, json.Unmarshal(said, result)
}

// The merge patch that Argo CD sends for what an action returned.
func argoAction(object *unstructured.Unstructured, script string) (json.RawMessage, error) {
	said, err := runLua(object, script)
	if err != nil {
		return nil, err
	}
	returned := map[string]any{}
	if err := json.Unmarshal(said, &returned); err != nil {
		return nil, err
	}
	before, err := json.Marshal(object.Object)
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(mended(returned, object.Object))
	if err != nil {
		return nil, err
	}
	return jsonpatch.CreateMergePatch(before, after)
}

// An empty table of Lua comes back as a list; where there was an object, Argo CD makes it one again.
func mended(returned, was any) any {
	switch now := returned.(type) {
	case map[string]any:
		was, _ := was.(map[string]any)
		for key, field := range now {
			now[key] = mended(field, was[key])
		}
	case []any:
		if _, wasObject := was.(map[string]any); wasObject && len(now) == 0 {
			return map[string]any{}
		}
		was, _ := was.([]any)
		for i := range min(len(now), len(was)) {
			now[i] = mended(now[i], was[i])
		}
	}
	return returned
}
