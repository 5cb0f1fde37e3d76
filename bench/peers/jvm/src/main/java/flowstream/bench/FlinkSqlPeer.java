package flowstream.bench;

import java.time.Duration;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.table.functions.ScalarFunction;

/** Job a in Flink SQL. */
public final class FlinkSqlPeer {
    private static final String FLOWS =
            """
            CREATE TABLE flows (
                src_addr BYTES,
                `bytes` BIGINT,
                packets BIGINT,
                received TIMESTAMP_LTZ(3),
                WATERMARK FOR received AS received - %s
            ) WITH (
                'connector' = 'kafka',
                'topic' = '%s',
                'properties.bootstrap.servers' = '%s',
                'properties.group.id' = '%s',
                'scan.startup.mode' = 'earliest-offset',
                'format' = 'goflow2',
                %s
            )""";
    private static final String SUMS =
            """
            CREATE TABLE sums (
                src_addr STRING, window_start_ms BIGINT, `bytes` BIGINT, packets BIGINT, flows BIGINT
            ) WITH (
                'connector' = 'kafka',
                'topic' = '%s',
                'properties.bootstrap.servers' = '%s',
                'sink.delivery-guarantee' = 'at-least-once',
                'format' = 'json',
                %s
            )""";
    private static final String QUERY =
            """
            INSERT INTO sums
            SELECT
                address_text(src_addr),
                1000 * CAST(TIMESTAMPDIFF(SECOND, TIMESTAMP '1970-01-01 00:00:00', window_start) AS BIGINT),
                SUM(`bytes`), SUM(packets), COUNT(*)
            FROM TABLE(TUMBLE(TABLE flows, DESCRIPTOR(received), %s))
            GROUP BY src_addr, window_start, window_end""";

    private FlinkSqlPeer() {}

    /** The SQL function that spells an address. */
    public static final class AddressText extends ScalarFunction {
        /** Return the text of 4 or 16 bytes. */
        public String eval(byte[] address) {
            return Results.addressText(address);
        }
    }

    /** Run until told to stop. */
    public static void main(String[] args) throws Exception {
        var job = Job.parse(args);
        if (!job.name().equals("a")) {
            throw new IllegalArgumentException("only job a is done in SQL");
        }
        var tables = StreamTableEnvironment.create(FlinkSettings.environment());
        tables.getConfig().set("table.local-time-zone", "UTC");
        tables.createTemporarySystemFunction("address_text", AddressText.class);
        tables.executeSql(FLOWS.formatted(
                interval(job.grace()), job.input(), job.bootstrap(), job.group(), options(FlinkSettings.CONSUMER)));
        tables.executeSql(SUMS.formatted(job.output(), job.bootstrap(), options(FlinkSettings.PRODUCER)));
        tables.executeSql(QUERY.formatted(interval(job.window()))).await();
    }

    private static String interval(Duration duration) {
        return "INTERVAL '%d.%03d' SECOND".formatted(duration.toSeconds(), duration.toMillisPart());
    }

    private static String options(Map<String, String> settings) {
        return settings.entrySet().stream()
                .map(setting -> "'properties.%s' = '%s'".formatted(setting.getKey(), setting.getValue()))
                .collect(Collectors.joining(", "));
    }
}
