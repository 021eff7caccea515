// Vultr by govultr: `vultr URL` runs it against a fresh fake cloud.
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/vultr/govultr/v3"
)

var base = os.Args[1]

func main() {
	ctx := context.Background()
	client := vultr("test")
	create := func(tags ...string) (*govultr.Instance, error) {
		instance, _, err := client.Instance.Create(ctx, &govultr.InstanceCreateReq{
			Region: "ams", Plan: "vc2-1c-1gb", OsID: 2284, Label: "proxy", Tags: append([]string{"pool:p"}, tags...),
			UserData: base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\n")),
		})
		return instance, err
	}

	// Pending, without an address, then active with one.
	control("PATCH", "/control/knobs", map[string]any{"boots_after": 30, "locked_for": 60})
	made, err := create("slot:0")
	must(err)
	expect(made.Status == "pending" && made.MainIP == "0.0.0.0", "new: %+v", made)
	advance(31)
	seen, _, err := client.Instance.Get(ctx, made.ID)
	must(err)
	expect(seen.Status == "active" && strings.HasPrefix(seen.MainIP, "198.18.") && seen.ServerStatus == "locked", "active: %+v", seen)
	data, _, err := client.Instance.GetUserData(ctx, made.ID)
	must(err)
	expect(data.Data == base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\n")), "user data: %+v", data)

	// A locked instance answers a delete with 500.
	refused(client.Instance.Delete(ctx, made.ID), "locked")
	advance(31)
	must(client.Instance.Delete(ctx, made.ID))
	_, _, err = client.Instance.Get(ctx, made.ID)
	refused(err, "Invalid instance")

	// Only a tag or label tells of a lost create; the same request again makes another one.
	control("POST", "/control/faults", map[string]any{"effect": "lose_reply", "call": "create", "times": 1})
	_, err = create("nonce:1")
	refused(err, "EOF")
	expect(len(list(ctx, client, &govultr.ListOptions{Tag: "nonce:1"})) == 1, "the lost one is there")

	// Tags, labels and pages.
	for slot := range 7 {
		_, err := create(fmt.Sprintf("slot:%d", slot))
		must(err)
	}
	expect(len(list(ctx, client, &govultr.ListOptions{Tag: "pool:p", PerPage: 3})) == 8, "all pages")
	expect(len(list(ctx, client, &govultr.ListOptions{Label: "proxy"})) == 8, "by label")
	expect(len(list(ctx, client, &govultr.ListOptions{Tag: "pool:q"})) == 0, "by another tag")
	_, _, _, err = client.Instance.List(ctx, &govultr.ListOptions{PerPage: 501})
	refused(err, "per_page")

	// Refusals.
	for refusal, words := range map[string]string{"quota": "maximum number", "no_capacity": "not available", "forbidden": "Unauthorized"} {
		control("POST", "/control/faults", map[string]any{"effect": map[string]any{"refuse": refusal}, "times": 1})
		_, err = create()
		refused(err, words)
	}
	control("POST", "/control/faults", map[string]any{"effect": map[string]any{"refuse": map[string]any{"throttled": 1}}, "times": 1})
	_, err = create()
	refused(err, "Rate limit")
	_, _, _, err = vultr("stranger").Instance.List(ctx, nil)
	refused(err, "Invalid API token")
}

// A client without its own retries, which would hide what is looked at here.
func vultr(token string) *govultr.Client {
	client := govultr.NewClient(&http.Client{Transport: bearer(token)})
	must(client.SetBaseURL(base))
	client.SetRetryLimit(0)
	return client
}

type bearer string

func (token bearer) RoundTrip(request *http.Request) (*http.Response, error) {
	request.Header.Set("Authorization", "Bearer "+string(token))
	return http.DefaultTransport.RoundTrip(request)
}

// All pages.
func list(ctx context.Context, client *govultr.Client, options *govultr.ListOptions) []govultr.Instance {
	var all []govultr.Instance
	for {
		page, meta, _, err := client.Instance.List(ctx, options)
		must(err)
		all = append(all, page...)
		if meta.Links.Next == "" {
			return all
		}
		options.Cursor = meta.Links.Next
	}
}

func advance(seconds int) {
	control("POST", "/control/clock", map[string]any{"advance": seconds})
}

func control(method, path string, body any) {
	text, err := json.Marshal(body)
	must(err)
	request, err := http.NewRequest(method, base+path, bytes.NewReader(text))
	must(err)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	must(err)
	must(response.Body.Close())
	expect(response.StatusCode < 300, "%s %s: %s", method, path, response.Status)
}

func must(err error) {
	expect(err == nil, "%v", err)
}

func refused(err error, words string) {
	expect(err != nil && strings.Contains(err.Error(), words), "%v is not refused with %q", err, words)
}

func expect(is bool, format string, args ...any) {
	if !is {
		panic(fmt.Sprintf(format, args...))
	}
}
