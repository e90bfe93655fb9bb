// go run ./notifier: prints one line for each picture and each failure, until it is stopped.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kgo"
)

func env(name, otherwise string) string { return cmp.Or(os.Getenv(name), otherwise) }

// What a value begins with, from docs/contract.md, and the schema that follows.
var readers = map[string]avro.Schema{
	"c3017dee58ab49c4c4a3": read("generation_completed.avsc"),
	"c3010eb404de157ae617": read("generation_failed.avsc"),
}

func main() {
	prefix := env("KAFKA_TOPIC_PREFIX", "")
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(env("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"), ",")...),
		kgo.ConsumerGroup("notifier-go"), kgo.DisableAutoCommit(),
		kgo.ConsumeTopics(prefix+"generation.completed", prefix+"generation.failed"),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), // not the default of this client
	)
	check(err)
	seen := map[string]bool{} // yours: a table that is written together with what the event causes
	for {
		fetches := client.PollFetches(context.Background())
		fetches.EachError(func(_ string, _ int32, err error) { log.Print(err) })
		fetches.EachRecord(func(record *kgo.Record) {
			if id := header(record, "ce_id"); !seen[id] {
				seen[id] = true
				var event map[string]any
				check(avro.Unmarshal(readers[fmt.Sprintf("%x", record.Value[:10])], record.Value[10:], &event))
				if url, ok := event["image_url"]; ok {
					fmt.Println("completed", event["job_id"], url)
				} else {
					fmt.Println("failed", event["job_id"], event["error_code"], event["error_message"])
				}
			}
		})
		check(client.CommitUncommittedOffsets(context.Background()))
	}
}

func header(record *kgo.Record, name string) string {
	for _, header := range record.Headers {
		if header.Key == name {
			return string(header.Value)
		}
	}
	return ""
}

func read(name string) avro.Schema {
	text, err := os.ReadFile(env("SCHEMAS", "../../schemas") + "/" + name)
	check(err)
	return avro.MustParse(string(text))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
