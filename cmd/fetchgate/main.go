// Command fetchgate performs outbound HTTP for other services over gRPC.
package main

func main() {}
