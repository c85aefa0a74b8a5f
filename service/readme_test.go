package service_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// readmeFetch is what the README shows, from the first line to the last.
func readmeFetch(ctx context.Context) error {
	conn, err := grpc.NewClient("127.0.0.1:7801", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := fetchgatev1.NewFetchServiceClient(conn).Fetch(ctx, &fetchgatev1.FetchRequest{
		Request: &fetchgatev1.HttpRequest{Url: "https://example.com/"},
	})
	if err != nil {
		return err // fetchgate did not carry out the fetch
	}
	if f := answer.GetFailure(); f != nil {
		return fmt.Errorf("%v: %s", f.GetReason(), f.GetMessage()) // the upstream gave no usable response
	}
	fmt.Println(answer.GetResponse().GetHead().GetStatus(), len(answer.GetResponse().GetBody()))
	return nil
}

// TestREADME: the README's Go is that of readmeFetch, which compiles, and its
// configuration loads, compiles and serves.
func TestREADME(t *testing.T) {
	_ = readmeFetch // it dials a port of the machine, so it is only compiled
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("readme_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(fences(t, readme, "go", 1)[0], "\n") {
		if !strings.Contains(string(source), strings.TrimSpace(line)) {
			t.Errorf("the README has %q, which readmeFetch has not", line)
		}
	}
	for _, yaml := range fences(t, readme, "yaml", 2) {
		if _, err := config.Parse("README.md", []byte(yaml)); err != nil {
			t.Fatal(err)
		}
		fetchtest.Start(t, fetchtest.Options{Config: yaml})
	}
}

// fences returns the blocks of that language, of which there are n.
func fences(t *testing.T, page []byte, language string, n int) []string {
	t.Helper()
	found := regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllSubmatch(page, -1)
	if len(found) != n {
		t.Fatalf("the README has %d blocks of %s, want %d", len(found), language, n)
	}
	var blocks []string
	for _, m := range found {
		blocks = append(blocks, string(m[1]))
	}
	return blocks
}
