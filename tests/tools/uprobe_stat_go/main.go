// uprobe_stat, written with cilium/ebpf: a tool without a C library, whose system calls come from any thread of Go's. Prints
// what uprobe_stat.c prints.
//
//	uprobe_stat_go count|latency|ring|perf FILE FUNCTION [PID [COOKIE]]
//	uprobe_stat_go pin|unpin PATH
//
// Its programs are in uprobe_stat.bpf.o, beside it.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/perf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
)

type event struct {
	Tgid, Tid, Uid, _    uint32
	Cookie, IP, Argument uint64
	Comm                 [16]byte
	TextLength           int32
	Text                 [44]byte
}

func fail(what string, err error) {
	fmt.Fprintf(os.Stderr, "uprobe_stat_go: %s: %v\n", what, err)
	os.Exit(1)
}

func cString(text []byte) string {
	if end := bytes.IndexByte(text, 0); end >= 0 {
		text = text[:end]
	}
	return string(text)
}

var events uint64

func printEvent(sample []byte) {
	var e event
	if binary.Read(bytes.NewReader(sample), binary.LittleEndian, &e) != nil {
		return
	}
	events++
	text := ""
	if e.TextLength > 0 {
		text = cString(e.Text[:])
	}
	fmt.Printf("event tgid=%d tid=%d uid=%d cookie=%d argument=%d comm=%s length=%d text=%s\n", e.Tgid, e.Tid, e.Uid,
		e.Cookie, e.Argument, cString(e.Comm[:]), e.TextLength, text)
}

// Calls `next` for one record after the other until the reader is closed, which it says by `closed`. What it returns closes the
// reader and waits for the last record.
func follow(started *sync.WaitGroup, next func() error, closed error, reader io.Closer) func() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		started.Done()
		for {
			if err := next(); err != nil {
				if !errors.Is(err, closed) {
					fail("read", err)
				}
				return
			}
		}
	}()
	return func() { reader.Close(); <-done }
}

func readRing(ring *ebpf.Map, started *sync.WaitGroup) func() {
	reader, err := ringbuf.NewReader(ring)
	if err != nil {
		fail("ring buffer", err)
	}
	next := func() error {
		record, err := reader.Read()
		if err == nil {
			printEvent(record.RawSample)
		}
		return err
	}
	return follow(started, next, ringbuf.ErrClosed, reader)
}

func readPerf(array *ebpf.Map, started *sync.WaitGroup) func() {
	reader, err := perf.NewReader(array, 64*4096)
	if err != nil {
		fail("perf buffer", err)
	}
	next := func() error {
		record, err := reader.Read()
		if err != nil {
			return err
		}
		if record.LostSamples != 0 {
			fmt.Printf("lost cpu=%d count=%d\n", record.CPU, record.LostSamples)
		} else {
			printEvent(record.RawSample)
		}
		return nil
	}
	return follow(started, next, perf.ErrClosed, reader)
}

// Every thread at once: updates, look-ups and deletions of the same map, each of its own keys.
func hammer(m *ebpf.Map) int {
	const threads, keys = 8, 200
	var wrong [threads]int
	var all sync.WaitGroup
	for t := 0; t < threads; t++ {
		all.Add(1)
		go func(t int) {
			defer all.Done()
			runtime.LockOSThread()
			for k := 0; k < keys; k++ {
				key, value, got := uint64(t*keys+k), uint64(t), uint64(0)
				if m.Put(key, value) != nil || m.Lookup(key, &got) != nil || got != value || m.Delete(key) != nil {
					wrong[t]++
				}
			}
		}(t)
	}
	all.Wait()
	total := 0
	for _, n := range wrong {
		total += n
	}
	return total
}

func summary(maps map[string]*ebpf.Map) map[string]any {
	out := map[string]any{"events": events}
	byTgid, calls := map[string]uint64{}, uint64(0)
	var tgid uint32
	var count uint64
	for all := maps["calls_by_tgid"].Iterate(); all.Next(&tgid, &count); {
		byTgid[strconv.Itoa(int(tgid))] = count
		calls += count
	}
	out["by_tgid"], out["calls"] = byTgid, calls
	var perCPU []uint64
	if maps["calls_by_cpu"].Lookup(uint32(0), &perCPU) == nil {
		total := uint64(0)
		for _, n := range perCPU {
			total += n
		}
		out["per_cpu"] = total
	}
	histogram, timed := []uint64{}, uint64(0)
	for slot := uint32(0); slot < maps["histogram"].MaxEntries(); slot++ {
		if err := maps["histogram"].Lookup(slot, &count); err != nil {
			fail("look up", err)
		}
		histogram = append(histogram, count)
		timed += count
	}
	out["histogram"], out["timed"] = histogram, timed
	out["hammered_wrong"] = hammer(maps["started_ns"])
	return out
}

// A map pinned by one process, found by the next.
func pins(what, path string) {
	if what == "pin" {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "pinned", Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 4})
		if err == nil {
			err = m.Put(uint32(1), uint64(77))
		}
		if err == nil {
			err = m.Pin(path)
		}
		if err != nil {
			fail("pin", err)
		}
		return
	}
	m, err := ebpf.LoadPinnedMap(path, nil)
	var value uint64
	if err == nil {
		err = m.Lookup(uint32(1), &value)
	}
	if err == nil {
		err = m.Unpin()
	}
	if err != nil {
		fail("unpin", err)
	}
	fmt.Println(value)
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: uprobe_stat_go count|latency|ring|perf FILE FUNCTION [PID [COOKIE]]")
		os.Exit(2)
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		fail("raise the limit of locked memory", err)
	}
	if os.Args[1] == "pin" || os.Args[1] == "unpin" {
		pins(os.Args[1], os.Args[2])
		return
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	own, _ := os.Executable()
	spec, err := ebpf.LoadCollectionSpec(filepath.Join(filepath.Dir(own), "uprobe_stat.bpf.o"))
	if err != nil {
		fail("open", err)
	}
	for _, program := range spec.Programs {
		program.Type = ebpf.Kprobe // sections named "uprobe" alone came later
	}
	object, err := ebpf.NewCollection(spec)
	if err != nil {
		fail("load", err)
	}
	file, err := link.OpenExecutable(os.Args[2])
	if err != nil {
		fail("open", err)
	}
	options := &link.UprobeOptions{}
	if len(os.Args) > 4 {
		if pid, _ := strconv.Atoi(os.Args[4]); pid > 0 {
			options.PID = pid
		}
	}
	if len(os.Args) > 5 {
		options.Cookie, _ = strconv.ParseUint(os.Args[5], 0, 64)
	}
	program := map[string]string{"count": "on_count", "latency": "on_enter", "ring": "on_ring", "perf": "on_perf"}[os.Args[1]]
	first, err := file.Uprobe(os.Args[3], object.Programs[program], options)
	if err != nil {
		fail("attach", err)
	}
	defer first.Close()
	if os.Args[1] == "latency" {
		second, err := file.Uretprobe(os.Args[3], object.Programs["on_return"], options)
		if err != nil {
			fail("attach", err)
		}
		defer second.Close()
	}
	finish := func() {}
	var started sync.WaitGroup
	started.Add(1)
	switch os.Args[1] {
	case "ring":
		finish = readRing(object.Maps["ring"], &started)
	case "perf":
		finish = readPerf(object.Maps["perf"], &started)
	default:
		started.Done()
	}
	started.Wait()
	fmt.Println("ready")
	<-stop
	finish()
	line, _ := json.Marshal(summary(object.Maps))
	fmt.Println(string(line))
}
