package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// tokenPrefix begins each token, so that who finds one knows what it is for.
const tokenPrefix = "fg_"

// tokenBytes is how many random bytes a token has: nobody guesses it.
const tokenBytes = 32

type tokenCommand struct {
	JSON bool `name:"json" help:"Print JSON, for scripts."`
}

// Help is the end of the command's help.
func (tokenCommand) Help() string {
	return "The digest goes into callers[].token_sha256 of the configuration, the token to the caller alone, which shows it in the metadata of each RPC as authorization: Bearer TOKEN. It is printed once and kept nowhere. To change a token, put the digest of the next one beside that of the current one."
}

// Run prints a new token and its digest.
func (c *tokenCommand) Run(s streams) error {
	random := make([]byte, tokenBytes)
	rand.Read(random) // it never fails
	token := tokenPrefix + base64.RawURLEncoding.EncodeToString(random)
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte(token)))
	if c.JSON {
		return json.NewEncoder(s.out).Encode(map[string]string{"token": token, "token_sha256": digest})
	}
	_, err := fmt.Fprintf(s.out, "token:        %s\ntoken_sha256: %s\n", token, digest)
	return err
}
