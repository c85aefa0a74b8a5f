package service_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// BenchmarkFetch is a unary fetch of 1 KiB with caller, fetchgate and upstream
// in one process: for profiles, and for allocations from one change to the
// next. `make bench` compares whole processes.
func BenchmarkFetch(b *testing.B) {
	body := []byte(strings.Repeat("x", 1<<10))
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(body) }))
	defer upstream.Close()
	g := fetchtest.Start(b, fetchtest.Options{Allow: []string{upstream.URL}})
	m := &fetchgatev1.FetchRequest{Request: &fetchgatev1.HttpRequest{Url: upstream.URL + "/"}}
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			answer, err := g.Fetch(context.Background(), m)
			if err != nil || len(answer.GetResponse().GetBody()) != len(body) {
				b.Errorf("%v %v", answer, err)
				return
			}
		}
	})
}
