package fetchtest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fetchgate/fetchgate/service/fetchtest"
)

func TestDNSAnswers(t *testing.T) {
	d := fetchtest.NewDNS(t)
	d.Set("both.test.", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.2")
	d.Set("four.test", "192.0.2.1")
	for _, c := range []struct{ network, host, want string }{
		{"ip", "both.test", "[192.0.2.1 2001:db8::1 ::ffff:192.0.2.2]"},
		{"ip4", "both.test", "[192.0.2.1 ::ffff:192.0.2.2]"},
		{"ip6", "both.test", "[2001:db8::1]"},
		{"ip", "Four.Test.", "[192.0.2.1]"},
		{"ip", "198.51.100.7", "[198.51.100.7]"},
		{"ip6", "four.test", "not found"},
		{"ip", "other.test", "not found"},
	} {
		got, err := d.LookupNetIP(t.Context(), c.network, c.host)
		var dns *net.DNSError
		text := fmt.Sprint(got)
		if errors.As(err, &dns) && dns.IsNotFound && dns.Name == c.host {
			text = "not found"
		}
		if text != c.want {
			t.Errorf("%s %s: got %v, %v, want %s", c.network, c.host, got, err, c.want)
		}
	}
	queries := d.Queries()
	if want := (fetchtest.DNSQuery{Network: "ip", Host: "Four.Test."}); len(queries) != 7 || queries[3] != want {
		t.Errorf("the queries were %v", queries)
	}
}

func TestDNSFollowsItsScript(t *testing.T) {
	d := fetchtest.NewDNS(t)
	d.Script("rebinding.test", d.Addresses("192.0.2.1"), fetchtest.ServFail(), fetchtest.NotFound(), d.Addresses("127.0.0.1"))
	var got []string
	for range 5 {
		addresses, err := d.LookupNetIP(t.Context(), "ip", "rebinding.test")
		var dns *net.DNSError
		if errors.As(err, &dns) {
			got = append(got, fmt.Sprintf("temporary=%t notfound=%t", dns.IsTemporary, dns.IsNotFound))
		} else {
			got = append(got, fmt.Sprint(addresses))
		}
	}
	want := []string{"[192.0.2.1]", "temporary=true notfound=false", "temporary=false notfound=true", "[127.0.0.1]", "[127.0.0.1]"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDNSHangsUntilItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fetchtest.NewDNS(t)
		d.Script("hanging.test", fetchtest.NoAnswer())
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		_, err := d.LookupNetIP(ctx, "ip", "hanging.test")
		var dns *net.DNSError
		if !errors.As(err, &dns) || !dns.IsTimeout || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(start); waited != 5*time.Second {
			t.Errorf("waited %v, want 5s", waited)
		}
	})
}

func TestDNSAnswersWhenTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fetchtest.NewDNS(t)
		until := make(chan struct{})
		d.Script("late.test", fetchtest.After(until, d.Addresses("192.0.2.1")))
		answered := false
		var running sync.WaitGroup
		running.Go(func() {
			got, err := d.LookupNetIP(t.Context(), "ip", "late.test")
			if len(got) != 1 || err != nil {
				t.Errorf("got %v, %v", got, err)
			}
			answered = true
		})
		synctest.Wait()
		if answered {
			t.Error("the answer came before it was told to")
		}
		close(until)
		running.Wait()
	})
}

func TestDNSIsSafeForConcurrentUse(t *testing.T) {
	d := fetchtest.NewDNS(t)
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			d.Set(fmt.Sprintf("%d.test", i), "192.0.2.1")
			addresses, err := d.LookupNetIP(t.Context(), "ip", fmt.Sprintf("%d.test", i))
			if err != nil || len(addresses) != 1 {
				t.Errorf("got %v, %v", addresses, err)
				return
			}
			addresses[0] = addresses[0].Next() // the list belongs to who asked
		})
	}
	running.Wait()
	if got, err := d.LookupNetIP(t.Context(), "ip", "0.test"); fmt.Sprint(got) != "[192.0.2.1]" || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}
