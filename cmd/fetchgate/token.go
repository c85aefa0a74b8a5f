package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// tokenPrefix begins each token, so that who finds one knows what it is for.
const tokenPrefix = "fg_"

// tokenBytes is how many random bytes a token has: nobody guesses it.
const tokenBytes = 32

type tokenCommand struct {
	JSON   bool   `name:"json" help:"Print JSON, for scripts."`
	Output string `short:"o" type:"given" placeholder:"FILE" help:"Write the token to FILE, which only its owner may read and which must not be there yet, and print the digest alone."`
}

// Help is the end of the command's help.
func (tokenCommand) Help() string {
	return "The digest goes into callers[].token_sha256 of the configuration, the token to the caller alone, which shows it in the metadata of each RPC as authorization: Bearer TOKEN; get and explain take it from the file that --token-file names. It is printed once, or written to the file of -o, and kept nowhere else. To change a token, put the digest of the next one beside that of the current one."
}

// Run prints a new token and its digest.
func (c *tokenCommand) Run(s streams) error {
	random := make([]byte, tokenBytes)
	rand.Read(random) // it never fails
	token := tokenPrefix + base64.RawURLEncoding.EncodeToString(random)
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte(token)))
	if c.Output != "" {
		if err := writeToken(c.Output, token); err != nil {
			return &problem{exitUsage, "cannot write the token to " + c.Output, bare(err).Error(), "name a new file with -o, in a directory that can be written"}
		}
		if !c.JSON {
			_, err := fmt.Fprintf(s.out, "token_sha256: %s\n", digest)
			return err
		}
		return json.NewEncoder(s.out).Encode(map[string]string{"token_sha256": digest})
	}
	if c.JSON {
		return json.NewEncoder(s.out).Encode(map[string]string{"token": token, "token_sha256": digest})
	}
	_, err := fmt.Fprintf(s.out, "token:        %s\ntoken_sha256: %s\n", token, digest)
	return err
}

// writeToken makes a file that holds the token, for its owner alone. It replaces
// none: a token that is lost cannot be made again.
func writeToken(path, token string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(file, token)
	return errors.Join(err, file.Close())
}
