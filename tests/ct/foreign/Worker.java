import com.ericsson.otp.erlang.*;
import java.util.ArrayDeque;
import java.util.Queue;

/**
 * A worker and subscriber on a node of jinterface: {@code java Worker NAME COOKIE GATEWAY}.
 *
 * <p>It registers for the store {@code foreign}, subscribes to the topic {@code foreign}, publishes
 * to it, and says so on standard output. Then it answers calls, until one says {@code die}: its
 * process ends, and the node goes on until its standard input does.
 */
public final class Worker {
    private static final String REGISTRY = "esdb_gater_worker_registry";
    private static final String EVENTS = "esdb_channel_events";
    private static final OtpErlangBinary TOPIC = new OtpErlangBinary("foreign".getBytes());

    private final OtpNode node;
    private final OtpMbox mbox;
    private final String gateway;
    /** Messages that came while an answer was waited for. */
    private final Queue<OtpErlangObject> early = new ArrayDeque<>();

    private Worker(OtpNode node, String gateway) {
        this.node = node;
        this.mbox = node.createMbox();
        this.gateway = gateway;
    }

    public static void main(String[] arguments) throws Exception {
        OtpNode node = new OtpNode(arguments[0], arguments[1]);
        Worker worker = new Worker(node, arguments[2]);
        worker.run();
        while (System.in.read() >= 0) { }
        node.close();
        System.exit(0);
    }

    private void run() throws Exception {
        OtpErlangAtom store = new OtpErlangAtom("foreign");
        say("registered " + call(REGISTRY, tuple(new OtpErlangAtom("register"), store, mbox.self())));
        say("subscribed " + call(EVENTS, tuple(new OtpErlangAtom("subscribe"), TOPIC, mbox.self())));
        say("published " + call(EVENTS, tuple(new OtpErlangAtom("publish"), TOPIC, store)));
        while (true) {
            OtpErlangObject message = early.isEmpty() ? mbox.receive() : early.remove();
            OtpErlangTuple parts = (OtpErlangTuple) message;
            if (parts.elementAt(0).equals(new OtpErlangAtom("channel_message"))) {
                say("received " + parts.elementAt(3));
                continue;
            }
            OtpErlangTuple from = (OtpErlangTuple) parts.elementAt(1);
            OtpErlangObject request = parts.elementAt(2);
            answer(from, tuple(new OtpErlangAtom("ok"), request));
            if (request.equals(new OtpErlangAtom("die"))) {
                mbox.close();
                say("dead");
                return;
            }
        }
    }

    private OtpErlangObject call(String name, OtpErlangObject request) throws Exception {
        OtpErlangRef tag = node.createRef();
        mbox.send(name, gateway, tuple(new OtpErlangAtom("$gen_call"), tuple(mbox.self(), tag), request));
        while (true) {
            OtpErlangTuple message = (OtpErlangTuple) mbox.receive();
            if (message.elementAt(0).equals(tag)) {
                return message.elementAt(1);
            }
            early.add(message);
        }
    }

    private void answer(OtpErlangTuple from, OtpErlangObject reply) {
        mbox.send((OtpErlangPid) from.elementAt(0), tuple(from.elementAt(1), reply));
    }

    private static OtpErlangTuple tuple(OtpErlangObject... elements) {
        return new OtpErlangTuple(elements);
    }

    private static void say(String line) {
        System.out.println(line);
        System.out.flush();
    }
}
