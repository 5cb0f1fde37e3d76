package flowstream.bench;

import static org.apache.kafka.common.serialization.Serdes.ByteArray;

import com.google.protobuf.InvalidProtocolBufferException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Aggregator;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.EmitStrategy;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Initializer;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.TimestampExtractor;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.Stores;

/** The jobs in the DSL of Kafka Streams. */
public final class StreamsPeer {
    private static final int POINT_BYTES = 44;
    private static final int SUMS_BYTES = 24;

    /**
     * How far event time may jump. A store drops what is older than its retention as soon as a newer record comes,
     * open windows included; the message that closes a load lies 62 s behind it.
     */
    private static final Duration JUMP = Duration.ofSeconds(70);

    private static final Serde<FlowMessage> FLOW = Serdes.serdeFrom(
            (topic, flow) -> {
                throw new UnsupportedOperationException("only read");
            },
            (topic, value) -> {
                try {
                    return Messages.decode(value);
                } catch (InvalidProtocolBufferException error) {
                    throw new SerializationException(error);
                }
            });

    private static final TimestampExtractor EVENT_TIME =
            (record, latest) -> Messages.timeMs(((FlowMessage) record.value()).getTimeReceivedNs());

    private final Job job;

    private StreamsPeer(Job job) {
        this.job = job;
    }

    /** Run until told to stop. */
    public static void main(String[] args) throws Exception {
        var job = Job.parse(args);
        var builder = new StreamsBuilder();
        new StreamsPeer(job).build(builder, RoutedTopics.create(job));
        var streams = new KafkaStreams(builder.build(), properties(job));
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1); // an ended process is what the harness looks for
            return null;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(5))));
        streams.start();
    }

    private static Properties properties(Job job) throws IOException {
        var settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, job.group());
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, job.bootstrap());
        settings.put(StreamsConfig.STATE_DIR_CONFIG, Scratch.folder("streams").toString());
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 10_000);
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 256L << 20);
        settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 20_000);
        // Flows of all partitions are taken in order of time; where one is empty, its next record is waited for.
        settings.put(StreamsConfig.MAX_TASK_IDLE_MS_CONFIG, 600_000L);
        // Windows that are due are looked for at every step of event time, not once a second of the clock: the
        // last windows of a load have no later record that could close them. The name is KIP-825's.
        settings.put(StreamsConfig.InternalConfig.EMIT_INTERVAL_MS_KSTREAMS_WINDOWED_AGGREGATION, 0L);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.ISOLATION_LEVEL_CONFIG), "read_committed");
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 20_000);
        // A fetch that waits for an empty partition holds up the others: there is one at a time for each broker.
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG), 10);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 100);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 1 << 18);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BUFFER_MEMORY_CONFIG), 64 << 20);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
        return settings;
    }

    private void build(StreamsBuilder builder, List<String> routed) {
        builder.stream(job.input(), Consumed.with(ByteArray(), FLOW).withTimestampExtractor(EVENT_TIME))
                .process(() -> new BySource())
                .to((key, value, context) -> routed.get(context.partition()), Produced.with(ByteArray(), ByteArray()));
        var windows = TimeWindows.ofSizeAndGrace(job.window(), job.grace());
        var retention = job.window().plus(job.grace()).plus(JUMP);
        boolean sums = job.name().equals("a");
        var store = Materialized.<byte[], byte[]>as(
                        Stores.inMemoryWindowStore("windows", retention, job.window(), false))
                .withKeySerde(ByteArray())
                .withValueSerde(ByteArray());
        // Sums are cheaper to log at every change than to cache; a list of flows would be logged whole each time.
        store = sums ? store.withCachingDisabled() : store.withCachingEnabled();
        Initializer<byte[]> nothing = () -> new byte[sums ? SUMS_BYTES : 0];
        Aggregator<byte[], byte[], byte[]> aggregator = sums ? StreamsPeer::add : StreamsPeer::append;
        builder.stream(routed, Consumed.with(ByteArray(), ByteArray()))
                .groupByKey(Grouped.with(ByteArray(), ByteArray()))
                .windowedBy(windows)
                .emitStrategy(EmitStrategy.onWindowClose())
                .aggregate(nothing, aggregator, store)
                .toStream()
                .process(() -> new Emit())
                .to(job.output(), Produced.with(ByteArray(), ByteArray()));
    }

    private static byte[] add(byte[] source, byte[] flow, byte[] sums) {
        var added = ByteBuffer.wrap(flow);
        var before = ByteBuffer.wrap(sums);
        return ByteBuffer.allocate(SUMS_BYTES)
                .putLong(before.getLong() + added.getLong())
                .putLong(before.getLong() + added.getLong())
                .putLong(before.getLong() + 1)
                .array();
    }

    private static byte[] append(byte[] source, byte[] flow, byte[] flows) {
        var longer = Arrays.copyOf(flows, flows.length + flow.length);
        System.arraycopy(flow, 0, longer, flows.length, flow.length);
        return longer;
    }

    /** Takes from a message its source, as the key, and what the job needs of the rest. */
    private final class BySource extends ContextualProcessor<byte[], FlowMessage, byte[], byte[]> {
        private final boolean sums = job.name().equals("a");

        @Override
        public void process(Record<byte[], FlowMessage> record) {
            var flow = record.value();
            var value = sums ? ByteBuffer.allocate(16) : ByteBuffer.allocate(POINT_BYTES);
            if (!sums) {
                var origin = context().recordMetadata().orElseThrow();
                value.putLong(flow.getTimeReceivedNs()).putInt(origin.partition()).putLong(origin.offset());
                value.putDouble(Messages.durationS(flow));
            }
            value.putLong(flow.getBytes()).putLong(flow.getPackets());
            context().forward(record.withKey(flow.getSrcAddr().toByteArray()).withValue(value.array()));
        }
    }

    /** Makes the results of a window that has closed. */
    private final class Emit extends ContextualProcessor<Windowed<byte[]>, byte[], byte[], byte[]> {
        @Override
        public void process(Record<Windowed<byte[]>, byte[]> record) {
            var source = Results.addressText(record.key().key());
            long start = record.key().window().start();
            var kept = ByteBuffer.wrap(record.value());
            if (job.name().equals("a")) {
                emit(Results.sums(source, start, kept.getLong(), kept.getLong(), kept.getLong()));
            } else {
                new Pairs(points(kept)).emit(job.name().equals("b"), source, start, result -> emit(result));
            }
        }

        private void emit(byte[] result) {
            // Not the window's time: the broker would delete what is years old.
            long now = context().currentSystemTimeMs();
            context().forward(new Record<>(null, result, now));
        }

        private Pairs.Point[] points(ByteBuffer kept) {
            var points = new Pairs.Point[kept.capacity() / POINT_BYTES];
            for (int i = 0; i < points.length; i++) {
                points[i] = new Pairs.Point(
                        kept.getLong(), kept.getInt(), kept.getLong(), kept.getDouble(), kept.getLong(), kept.getLong());
            }
            return points;
        }
    }
}
