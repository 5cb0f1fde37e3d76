package flowstream.bench;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.StreamWriteFeature;
import com.fasterxml.jackson.core.util.ByteArrayBuilder;
import com.google.common.net.InetAddresses;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.UnknownHostException;

/** Writes the results of the three jobs as JSON. */
public final class Results {
    private static final JsonFactory JSON =
            JsonFactory.builder().enable(StreamWriteFeature.USE_FAST_DOUBLE_WRITER).build();

    private Results() {}

    private interface Fields {
        void write(JsonGenerator json) throws IOException;
    }

    /** Return an address as text, IPv6 compressed as in RFC 5952. */
    public static String addressText(byte[] address) {
        try {
            return InetAddresses.toAddrString(InetAddress.getByAddress(address));
        } catch (UnknownHostException error) {
            throw new IllegalArgumentException("an address of " + address.length + " bytes", error);
        }
    }

    /** Return the result of job a. */
    public static byte[] sums(String source, long windowStartMs, long bytes, long packets, long flows) {
        return object(source, windowStartMs, json -> {
            json.writeNumberField("bytes", bytes);
            json.writeNumberField("packets", packets);
            json.writeNumberField("flows", flows);
        });
    }

    /** Return one result of job b. */
    public static byte[] pair(String source, long windowStartMs, int first, int second, double distance) {
        return object(source, windowStartMs, json -> {
            json.writeNumberField("first", first);
            json.writeNumberField("second", second);
            json.writeNumberField("distance", distance);
        });
    }

    /** Return the result of job c, of at least two flows. */
    public static byte[] summary(String source, long windowStartMs, Pairs pairs) {
        var summary = new Object() {
            long count = 0;
            double sum = 0;
            double min = Double.POSITIVE_INFINITY;
            double max = 0;
        };
        pairs.forEach((first, second, distance) -> {
            summary.count++;
            summary.sum += distance;
            summary.min = Math.min(summary.min, distance);
            summary.max = Math.max(summary.max, distance);
        });
        return object(source, windowStartMs, json -> {
            json.writeNumberField("flows", pairs.flows());
            json.writeNumberField("pairs", summary.count);
            json.writeNumberField("min", summary.min);
            json.writeNumberField("max", summary.max);
            json.writeNumberField("mean", summary.sum / summary.count);
        });
    }

    private static byte[] object(String source, long windowStartMs, Fields fields) {
        var bytes = new ByteArrayBuilder(160);
        try (var json = JSON.createGenerator(bytes)) {
            json.writeStartObject();
            json.writeStringField("src_addr", source);
            json.writeNumberField("window_start_ms", windowStartMs);
            fields.write(json);
            json.writeEndObject();
        } catch (IOException error) {
            throw new UncheckedIOException(error); // memory does not fail
        }
        return bytes.toByteArray();
    }
}
