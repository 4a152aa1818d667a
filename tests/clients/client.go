// The Go client, as it is, against a cluster: publish, pull, push, ordered, KV watch and object store.
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run client.go nats://127.0.0.1:4222,nats://127.0.0.1:4223,...
package main

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func check(holds bool, what string, found ...interface{}) {
	if !holds {
		log.Fatal(append([]interface{}{what, ": "}, found...)...)
	}
}

var done []string

func step(name string, work func()) {
	log.SetPrefix(name + ": ")
	work()
	done = append(done, name)
}

func main() {
	client, err := nats.Connect(os.Args[1], nats.Timeout(10*time.Second))
	must(err)
	js, err := client.JetStream(nats.MaxWait(10 * time.Second))
	must(err)

	step("request", func() {
		other, err := nats.Connect(strings.Split(os.Args[1], ",")[2])
		must(err)
		_, err = other.QueueSubscribe("service", "q", func(m *nats.Msg) { must(m.Respond(append([]byte("re: "), m.Data...))) })
		must(err)
		must(other.Flush())
		var answer *nats.Msg
		for n := 0; n < 50; n++ {
			if answer, err = client.Request("service", []byte("x"), 5*time.Second); !errors.Is(err, nats.ErrNoResponders) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		must(err)
		check(string(answer.Data) == "re: x", "answer", string(answer.Data))
		must(other.Drain())
	})

	step("publish", func() {
		_, err := js.AddStream(&nats.StreamConfig{Name: "GO", Subjects: []string{"go.>"}, Replicas: 3, AllowDirect: true})
		must(err)
		for n := 1; n <= 10; n++ {
			ack, err := js.Publish(fmt.Sprintf("go.%d", n%2), []byte(fmt.Sprint(n)), nats.MsgId(fmt.Sprint(n)))
			must(err)
			check(ack.Sequence == uint64(n), "sequence", ack.Sequence)
		}
		ack, err := js.Publish("go.1", []byte("1"), nats.MsgId("1"))
		must(err)
		check(ack.Duplicate, "duplicate")
		_, err = js.Publish("go.1", []byte("x"), nats.ExpectLastSequence(3))
		check(err != nil && strings.Contains(err.Error(), "wrong last sequence: 10"), "expectation", err)
		future := []nats.PubAckFuture{}
		for n := 0; n < 100; n++ {
			ack, err := js.PublishAsync("go.async", []byte("x"))
			must(err)
			future = append(future, ack)
		}
		<-js.PublishAsyncComplete()
		for _, each := range future {
			select {
			case <-each.Ok():
			case err := <-each.Err():
				log.Fatal(err)
			}
		}
		message, err := js.GetLastMsg("GO", "go.1", nats.DirectGet())
		must(err)
		check(message.Sequence == 9, "last of go.1", message.Sequence)
	})

	step("pull", func() {
		sub, err := js.PullSubscribe("go.1", "pull")
		must(err)
		got, err := sub.Fetch(3)
		must(err)
		check(len(got) == 3, "fetched", len(got))
		for _, m := range got {
			must(m.AckSync())
		}
		got, err = sub.Fetch(5, nats.MaxWait(time.Second))
		must(err)
		check(len(got) == 2, "the rest", len(got))
		must(got[0].NakWithDelay(50 * time.Millisecond))
		must(got[1].Term())
		again, err := sub.Fetch(1)
		must(err)
		meta, err := again[0].Metadata()
		must(err)
		check(meta.NumDelivered == 2 && meta.Sequence.Stream == 7, "again", meta)
		must(again[0].AckSync())
		info, err := sub.ConsumerInfo()
		must(err)
		check(info.NumAckPending == 0 && info.AckFloor.Stream == 9, "floor", info.AckFloor)
	})

	step("push and queue", func() {
		seen := make(chan uint64, 200)
		for n := 0; n < 2; n++ {
			_, err := js.QueueSubscribe("go.*", "workers", func(m *nats.Msg) {
				meta, _ := m.Metadata()
				seen <- meta.Sequence.Stream
				must(m.Ack())
			}, nats.ManualAck(), nats.Durable("push"))
			must(err)
		}
		for n := 0; n < 110; n++ {
			select {
			case <-seen:
			case <-time.After(10 * time.Second):
				log.Fatal("only ", n, " messages")
			}
		}
	})

	step("ordered", func() {
		sub, err := js.SubscribeSync("go.>", nats.OrderedConsumer())
		must(err)
		for n := 1; n <= 110; n++ {
			m, err := sub.NextMsg(5 * time.Second)
			must(err)
			meta, err := m.Metadata()
			must(err)
			check(meta.Sequence.Stream == uint64(n), "in order", meta.Sequence)
		}
		must(sub.Unsubscribe())
	})

	step("key-value", func() {
		bucket, err := js.CreateKeyValue(&nats.KeyValueConfig{Bucket: "go", History: 5, Replicas: 3})
		must(err)
		_, err = bucket.PutString("a", "1")
		must(err)
		revision, err := bucket.PutString("a", "2")
		must(err)
		_, err = bucket.Create("a", []byte("x"))
		check(errors.Is(err, nats.ErrKeyExists), "create", err)
		_, err = bucket.Update("a", []byte("3"), revision)
		must(err)
		watcher, err := bucket.WatchAll()
		must(err)
		entry := <-watcher.Updates()
		check(string(entry.Value()) == "3", "watched", string(entry.Value()))
		check(<-watcher.Updates() == nil, "the end of what was there")
		_, err = bucket.PutString("b", "new")
		must(err)
		entry = <-watcher.Updates()
		check(entry.Key() == "b", "watched", entry.Key())
		must(watcher.Stop())
		history, err := bucket.History("a")
		must(err)
		check(len(history) == 3, "history", len(history))
		must(bucket.Delete("a"))
		must(bucket.Purge("b"))
		_, err = bucket.Keys()
		check(errors.Is(err, nats.ErrNoKeysFound), "keys", err)
		must(js.DeleteKeyValue("go"))
	})

	step("object store", func() {
		store, err := js.CreateObjectStore(&nats.ObjectStoreConfig{Bucket: "go", Replicas: 3})
		must(err)
		blob := bytes.Repeat([]byte("0123456789"), 50_000)
		_, err = store.PutBytes("blob", blob)
		must(err)
		got, err := store.GetBytes("blob")
		must(err)
		check(bytes.Equal(got, blob), "the same bytes")
		must(store.Delete("blob"))
		must(js.DeleteObjectStore("go"))
	})

	step("account and purge", func() {
		account, err := js.AccountInfo()
		must(err)
		check(account.Streams == 1, "streams", account.Streams)
		must(js.PurgeStream("GO", &nats.StreamPurgeRequest{Subject: "go.async"}))
		info, err := js.StreamInfo("GO", &nats.StreamInfoRequest{SubjectsFilter: ">"})
		must(err)
		check(info.State.Msgs == 10 && info.State.Subjects["go.1"] == 5, "left", info.State)
		must(js.DeleteStream("GO"))
	})
	must(client.Drain())
	fmt.Printf("%d steps passed: %s\n", len(done), strings.Join(done, "; "))
}
