package flowstream.bench;

import java.io.IOException;
import java.util.ArrayList;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.java.typeutils.ValueTypeInfo;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;

/** The jobs in Flink's DataStream API. */
public final class FlinkDataStreamPeer {
    private FlinkDataStreamPeer() {}

    /** Run until told to stop. */
    public static void main(String[] args) throws Exception {
        var job = Job.parse(args);
        var env = FlinkSettings.environment();
        var times = WatermarkStrategy.<Flow>forBoundedOutOfOrderness(job.grace())
                .withTimestampAssigner((flow, unused) -> Messages.timeMs(flow.point.timeNs()));
        var windows = env.fromSource(source(job), times, "flows")
                .keyBy(flow -> flow.source, new ValueTypeInfo<>(Flow.Address.class))
                .window(TumblingEventTimeWindows.of(job.window()));
        var results = job.name().equals("a")
                ? windows.aggregate(new Sums(), new EmitSums())
                : windows.process(new EmitPairs(job.name().equals("b")));
        results.sinkTo(sink(job));
        env.execute(job.group());
    }

    private static KafkaSource<Flow> source(Job job) {
        return KafkaSource.<Flow>builder()
                .setBootstrapServers(job.bootstrap())
                .setTopics(job.input())
                .setGroupId(job.group())
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setProperties(FlinkSettings.properties(FlinkSettings.CONSUMER))
                .setDeserializer(new FlowDeserializer())
                .build();
    }

    private static KafkaSink<byte[]> sink(Job job) {
        var topic = job.output();
        return KafkaSink.<byte[]>builder()
                .setBootstrapServers(job.bootstrap())
                .setKafkaProducerConfig(FlinkSettings.properties(FlinkSettings.PRODUCER))
                .setDeliveryGuarantee(DeliveryGuarantee.AT_LEAST_ONCE)
                .setRecordSerializer((value, context, time) -> new ProducerRecord<>(topic, value))
                .build();
    }

    private static final class FlowDeserializer implements KafkaRecordDeserializationSchema<Flow> {
        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Flow> out) throws IOException {
            var message = Messages.decode(record.value());
            var flow = new Flow();
            flow.source.bytes = message.getSrcAddr().toByteArray();
            flow.point = new Pairs.Point(
                    message.getTimeReceivedNs(),
                    record.partition(),
                    record.offset(),
                    Messages.durationS(message),
                    message.getBytes(),
                    message.getPackets());
            out.collect(flow);
        }

        @Override
        public TypeInformation<Flow> getProducedType() {
            return new ValueTypeInfo<>(Flow.class);
        }
    }

    private static final class Sums implements AggregateFunction<Flow, long[], long[]> {
        @Override
        public long[] createAccumulator() {
            return new long[3];
        }

        @Override
        public long[] add(Flow flow, long[] sums) {
            sums[0] += flow.point.bytes();
            sums[1] += flow.point.packets();
            sums[2]++;
            return sums;
        }

        @Override
        public long[] getResult(long[] sums) {
            return sums;
        }

        @Override
        public long[] merge(long[] one, long[] other) {
            return new long[] {one[0] + other[0], one[1] + other[1], one[2] + other[2]};
        }
    }

    private static final class EmitSums extends ProcessWindowFunction<long[], byte[], Flow.Address, TimeWindow> {
        @Override
        public void process(Flow.Address source, Context context, Iterable<long[]> window, Collector<byte[]> out) {
            var sums = window.iterator().next(); // an aggregated window has one element
            out.collect(Results.sums(
                    Results.addressText(source.bytes), context.window().getStart(), sums[0], sums[1], sums[2]));
        }
    }

    private static final class EmitPairs extends ProcessWindowFunction<Flow, byte[], Flow.Address, TimeWindow> {
        private final boolean each;

        EmitPairs(boolean each) {
            this.each = each;
        }

        @Override
        public void process(Flow.Address address, Context context, Iterable<Flow> flows, Collector<byte[]> out) {
            var points = new ArrayList<Pairs.Point>();
            flows.forEach(flow -> points.add(flow.point));
            var pairs = new Pairs(points.toArray(Pairs.Point[]::new));
            pairs.emit(each, Results.addressText(address.bytes), context.window().getStart(), out::collect);
        }
    }
}
