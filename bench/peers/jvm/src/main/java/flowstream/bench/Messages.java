package flowstream.bench;

import com.google.protobuf.DiscardUnknownFieldsParser;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Parser;

/** Decodes Kafka values: one protobuf message each, behind its length. */
public final class Messages {
    // By default protobuf-java keeps what it does not know, three quarters of every message.
    private static final Parser<FlowMessage> PARSER = DiscardUnknownFieldsParser.wrap(FlowMessage.parser());

    private Messages() {}

    /** Return the message of a value. */
    public static FlowMessage decode(byte[] value) throws InvalidProtocolBufferException {
        int start = 1;
        while (value[start - 1] < 0) {
            start++; // the varint's bytes but the last have their highest bit set
        }
        return PARSER.parseFrom(value, start, value.length - start);
    }

    /** Return how long the flow lasted; a time that is not given is the time of receipt. */
    public static double durationS(FlowMessage flow) {
        long start = flow.getTimeFlowStartNs() == 0 ? flow.getTimeReceivedNs() : flow.getTimeFlowStartNs();
        long end = flow.getTimeFlowEndNs() == 0 ? flow.getTimeReceivedNs() : flow.getTimeFlowEndNs();
        return Math.max(end - start, 0) / 1e9;
    }

    /** Return a time in the engines' unit, whole milliseconds. */
    public static long timeMs(long timeNs) {
        return Math.floorDiv(timeNs, 1_000_000L);
    }
}
