// Package credential proves to an upstream who is asking; one file per kind.
//
// A kind says what of a request it writes and makes its value of a secret. A
// [Secret] cannot be printed. A credential of the request holds its own; one
// that the server holds reads it from a file or the environment, and reads the
// file again while it is in use.
package credential
