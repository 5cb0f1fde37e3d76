package flowstream.bench;

import java.io.IOException;
import java.util.Arrays;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;
import org.apache.flink.types.CopyableValue;

/** A flow as it goes from Flink's source to its windows; a Value, which writes itself instead of being reflected. */
public final class Flow implements CopyableValue<Flow> {
    /** A source address, 4 or 16 bytes, as the key of a stream. */
    public static final class Address implements CopyableValue<Address>, Comparable<Address> {
        byte[] bytes = {};

        @Override
        public boolean equals(Object other) {
            return other instanceof Address address && Arrays.equals(bytes, address.bytes);
        }

        @Override
        public int hashCode() {
            return Arrays.hashCode(bytes);
        }

        @Override
        public int compareTo(Address other) {
            return Arrays.compare(bytes, other.bytes);
        }

        @Override
        public void write(DataOutputView out) throws IOException {
            out.writeByte(bytes.length);
            out.write(bytes);
        }

        @Override
        public void read(DataInputView in) throws IOException {
            bytes = new byte[in.readByte()];
            in.readFully(bytes);
        }

        @Override
        public int getBinaryLength() {
            return -1;
        }

        @Override
        public void copyTo(Address target) {
            target.bytes = bytes; // never written to
        }

        @Override
        public Address copy() {
            var copy = new Address();
            copyTo(copy);
            return copy;
        }

        @Override
        public void copy(DataInputView in, DataOutputView out) throws IOException {
            int length = in.readByte();
            out.writeByte(length);
            out.write(in, length);
        }
    }

    private static final int POINT_BYTES = 44;

    Address source = new Address();
    Pairs.Point point;

    @Override
    public void write(DataOutputView out) throws IOException {
        source.write(out);
        out.writeLong(point.timeNs());
        out.writeInt(point.partition());
        out.writeLong(point.offset());
        out.writeDouble(point.durationS());
        out.writeLong(point.bytes());
        out.writeLong(point.packets());
    }

    @Override
    public void read(DataInputView in) throws IOException {
        source = new Address();
        source.read(in);
        point = new Pairs.Point(
                in.readLong(), in.readInt(), in.readLong(), in.readDouble(), in.readLong(), in.readLong());
    }

    @Override
    public int getBinaryLength() {
        return -1;
    }

    @Override
    public void copyTo(Flow target) {
        target.source = source;
        target.point = point;
    }

    @Override
    public Flow copy() {
        var copy = new Flow();
        copyTo(copy);
        return copy;
    }

    @Override
    public void copy(DataInputView in, DataOutputView out) throws IOException {
        source.copy(in, out);
        out.write(in, POINT_BYTES);
    }
}
