// Command renew fetches the special-purpose registries from IANA and rewrites
// the data that package iana embeds. Run it from the root of the repository:
//
//	go run ./service/iana/internal/renew
//
// It writes nothing unless both registries were fetched and make sense, and
// leaves every file as it is where IANA changed nothing.
package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"time"
)

// assignments is where IANA publishes its registries.
const assignments = "https://www.iana.org/assignments/"

// folder is where the data lies, from the root of the repository.
const folder = "service/iana/data"

// timeout is for the whole run: four small files.
const timeout = 2 * time.Minute

// registries are what package iana embeds.
var registries = []registry{
	{name: "iana-ipv4-special-registry", must: netip.MustParsePrefix("10.0.0.0/8")},
	{name: "iana-ipv6-special-registry", must: netip.MustParsePrefix("fc00::/7")},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := renew(ctx, newClient(), assignments, folder); err != nil {
		fmt.Fprintln(os.Stderr, "renew:", err)
		os.Exit(1)
	}
}
