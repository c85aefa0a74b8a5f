package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// tokenPrefix begins each token, so that who finds one knows what it is for.
const tokenPrefix = "fg_"

// tokenBytes is how many random bytes a token has: nobody guesses it.
const tokenBytes = 32

type tokenCommand struct {
	JSON   bool   `name:"json" help:"Print JSON, for scripts."`
	Digest string `type:"given" xor:"token" placeholder:"FILE" help:"Print the digest of the token that FILE holds; - reads standard input."`
	Output string `short:"o" xor:"token" type:"given" placeholder:"FILE" help:"Write the token to FILE, which only its owner may read and which must not be there yet, and print the digest alone."`
}

// Help is the end of the command's help.
func (tokenCommand) Help() string {
	return "The digest goes into callers[].token_sha256 of the configuration, the token to the caller alone, which shows it in the metadata of each RPC as authorization: Bearer TOKEN; get and explain take it from the file that --token-file names. It is printed once, or written to the file of -o, and kept nowhere else. With --digest no token is made: it prints the digest of one that there is, without the white space around it, which --token-file leaves out too. To change a token, put the digest of the next one beside that of the current one."
}

// Run prints a new token and its digest, or the digest of one that there is.
func (c *tokenCommand) Run(s streams) error {
	if c.Digest != "" {
		return c.ofExisting(s)
	}
	random := make([]byte, tokenBytes)
	rand.Read(random) // it never fails
	token := tokenPrefix + base64.RawURLEncoding.EncodeToString(random)
	if c.Output != "" {
		if err := writeToken(c.Output, token); err != nil {
			return &problem{exitUsage, "cannot write the token to " + c.Output, bare(err).Error(), "name a new file with -o, in a directory that can be written"}
		}
		return c.printDigest(s, token)
	}
	if c.JSON {
		return json.NewEncoder(s.out).Encode(map[string]string{"token": token, "token_sha256": digestOf(token)})
	}
	_, err := fmt.Fprintf(s.out, "token:        %s\ntoken_sha256: %s\n", token, digestOf(token))
	return err
}

// digestOf is how a configuration names a token.
func digestOf(token string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(token))) }

func (c *tokenCommand) printDigest(s streams, token string) error {
	if c.JSON {
		return json.NewEncoder(s.out).Encode(map[string]string{"token_sha256": digestOf(token)})
	}
	_, err := fmt.Fprintf(s.out, "token_sha256: %s\n", digestOf(token))
	return err
}

// maxTokenBytes is more than any token has that a caller can show.
const maxTokenBytes = 64 << 10

// ofExisting prints the digest of the token in a file.
func (c *tokenCommand) ofExisting(s streams) error {
	in := s.in
	if c.Digest != "-" {
		file, err := os.Open(c.Digest)
		if err != nil {
			return &problem{exitUsage, "cannot read the token", fmt.Sprintf("--digest %s: %v", c.Digest, bare(err)), "name a file that can be read, or - for standard input"}
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, maxTokenBytes))
	if err != nil {
		return &problem{exitUsage, "cannot read the token", fmt.Sprintf("--digest %s: %v", c.Digest, bare(err)), "name a file that can be read, or - for standard input"}
	}
	token, ok := asToken(text)
	if !ok {
		return &problem{exitUsage, "cannot use the token", fmt.Sprintf("--digest %s: it holds no token, or more than one", c.Digest), "write one token into the file, as it was issued"}
	}
	return c.printDigest(s, token)
}

// asToken is the token that a text holds, without the white space around it. ok is
// false where that is none that could be shown.
func asToken(text []byte) (token string, ok bool) {
	token = strings.TrimSpace(string(text))
	return token, token != "" && !strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f })
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
