package main

import (
	"bytes"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func FuzzW1ACL(f *testing.F) {
	f.Add([]byte(smokescreenACL))
	f.Add([]byte("# c\n"))
	f.Add([]byte("version: v1\ndefault: {action: open, name: \"a\\nb\", project: \"x: y\\u0085 # \\\" '\"}\nglobal_deny_list: [\"*.com\", 'a b', 0x7f.1, '::1']\n"))
	f.Add([]byte("version: v1\nservices:\n - {name: a, action: open, mitm_domains: [{domain: b.example, add_headers: {X-A: 'b\"'}}], allowed_domains: [b.example]}\n"))
	f.Add([]byte("version: v1\nservices: &a\n - *a\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		began := time.Now()
		defer func() {
			if d := time.Since(began); d > 3*time.Second {
				t.Fatalf("%v for %d bytes", d, len(b))
			}
		}()
		a, err := readACL("a", b)
		if err != nil {
			return
		}
		for _, from := range []identitySource{{}, {"spiffe://prod/", ".x.example"}} {
			made := importACL("a", a, from, nil)
			if made.compiles() != nil {
				t.Fatal(made.compiles())
			}
			var out bytes.Buffer
			made.write(&out, "a", from)
			var n struct {
				GRPC    any              `yaml:"grpc"`
				Callers []map[string]any `yaml:"callers"`
				Rules   []map[string]any `yaml:"rules"`
			}
			d := yaml.NewDecoder(&out)
			d.KnownFields(true)
			text := out.String()
			if err := d.Decode(&n); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if len(n.Callers) != len(made.callers) || len(n.Rules) != len(made.rules) {
				t.Fatal(text)
			}
			for i, c := range made.callers {
				o, _ := n.Callers[i]["owner"].(string)
				if n.Callers[i]["name"] != c.Name || o != c.Owner {
					t.Fatalf("%q %q\n%s", o, c.Owner, text)
				}
			}
			for i, r := range made.rules {
				w, _ := n.Rules[i]["when"].(string)
				if n.Rules[i]["name"] != r.Name || w != r.When || len(n.Rules[i]["origins"].([]any)) != len(r.Origins) {
					t.Fatalf("%q %q\n%s", w, r.When, text)
				}
				for k, v := range r.SetFields {
					if n.Rules[i]["set_fields"].(map[string]any)[k] != v {
						t.Fatal(text)
					}
				}
			}
		}
	})
}
