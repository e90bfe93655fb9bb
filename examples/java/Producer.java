// Producer PROMPT: sends one request and prints its job_id.
import java.nio.file.Path;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.generic.GenericRecordBuilder;
import org.apache.avro.message.BinaryMessageEncoder;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class Producer {
    static String env(String name, String otherwise) {
        return Optional.ofNullable(System.getenv(name)).orElse(otherwise);
    }

    public static void main(String[] args) throws Exception {
        var file = Path.of(env("SCHEMAS", "../../schemas"), "generation_request.avsc").toFile();
        var schema = new Schema.Parser().parse(file);
        GenericRecord request = new GenericRecordBuilder(schema) // adds the defaults of the other fields
                .set("job_id", env("JOB_ID", "order-" + UUID.randomUUID()))
                .set("girl_id", "luna").set("user_id", 1L).set("prompt", args[0])
                .set("width", 512).set("height", 512).build();
        // Avro's own single-object encoding: it writes C3 01 and the fingerprint by itself.
        byte[] value = new BinaryMessageEncoder<GenericRecord>(new GenericData(), schema).encode(request).array();

        var topic = env("KAFKA_TOPIC_PREFIX", "") + "generation.requests.normal";
        Map<String, Object> config = Map.of("bootstrap.servers", env("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"));
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new ByteArraySerializer())) {
            producer.send(new ProducerRecord<>(topic, request.get("job_id").toString(), value)).get();
        }
        System.out.println(request.get("job_id"));
    }
}
