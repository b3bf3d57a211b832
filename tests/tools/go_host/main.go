// A host in Go that is linked against libc: takes orders as victim.cc does, "NUMBER TIMES": how often to call its functions.
package main

// #include <stdlib.h>
import "C"

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// looksForStack begins with Go's comparison of what is left of the goroutine's stack.
//
//go:noinline
func looksForStack(n int) int {
	if n == 0 {
		return 0
	}
	return looksForStack(n-1) + 1
}

// needsNone is too small to look.
//
//go:noinline
func needsNone(n int) int { return n + 1 }

func main() {
	C.free(C.malloc(1))
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		times, _ := strconv.Atoi(words[1])
		result := make(chan int)
		go func() { // on a small stack, which grows
			result <- looksForStack(times-1) - needsNone(times-2)
		}()
		fmt.Printf("result %d\ndone %s\n", <-result, words[0])
	}
}
