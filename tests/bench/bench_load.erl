%% @doc Publishers and subscribers, as they run on the nodes of a rig.
%%
%% The load throttles itself, so that no side gets ahead by dropping: a publisher has at most
%% `window' messages under way. Its messages are numbered, and for each `chunk' of them one
%% subscriber, taking turns, sends an acknowledgement straight to the publisher. What is lost
%% all the same is counted.
-module(bench_load).

-export([publishers/1, go/1, stop/1, subscribers/2, sample/0, settle/1, forget/2]).
-export([subscribe_many/5, subscriber_of/3, alarm_subscriber/3, alarms/1, latencies/1, calls/3, workers/3]).
-export_type([load/0]).

-type load() :: #{
    node := node(),
    channel := atom(),
    topics := [binary(), ...],
    publishers := pos_integer(),
    subscribers := pos_integer(),
    %% Bytes of a message, at least 8: its publisher's number and its own.
    size := pos_integer(),
    window := pos_integer(),
    chunk := pos_integer(),
    %% Where processes subscribe: at the gateway itself unless given. A rival's publishers publish
    %% there as well.
    through => gateway | shim | bench_rival:system(),
    %% The gateway where they do, if that is another one.
    subscribe_at => node(),
    %% Messages per second, of all publishers together; as many as the window lets, if not given.
    rate => pos_integer()
}.

%% Without an acknowledgement for so long, what is under way counts as lost.
-define(STALL_MS, 3000).

%% @doc Makes publishers, which wait for {@link go/1}.
-spec publishers(load()) -> [pid()].
publishers(#{publishers := Count} = Load) ->
    [spawn(fun() -> publisher(N, Load) end) || N <- lists:seq(1, Count)].

publisher(N, #{node := Node, channel := Channel, topics := Topics, size := Size} = Load) ->
    #{window := Window, chunk := Chunk, publishers := Count} = Load,
    Padding = binary:copy(<<"x">>, Size - 8),
    receive go -> ok end,
    Pace = case Load of
        #{rate := Rate} -> {erlang:monotonic_time(nanosecond), Count * 1000000000 div Rate};
        #{} -> none
    end,
    Send = case Load of
        #{through := System} when System =/= gateway, System =/= shim -> bench_rival:publisher(System);
        #{} -> fun(Topic, Message) -> gen_server:cast({Channel, Node}, {publish, Topic, Message}) end
    end,
    publish(Send, {N, list_to_tuple(Topics), Padding}, {Window, Chunk, Pace}, 1, Window, 0).

publish(Send, What, {Window, Chunk, _} = Limits, Seq, 0, Stalls) ->
    receive
        ack ->
            publish(Send, What, Limits, Seq, Chunk, Stalls);
        {stop, From} ->
            From ! {stopped, self(), Seq - 1, Stalls}
    after ?STALL_MS ->
        publish(Send, What, Limits, Seq, Window, Stalls + 1)
    end;
publish(Send, {N, Topics, Padding} = What, {_, Chunk, Pace} = Limits, Seq, Credit, Stalls) ->
    Pace =:= none orelse Seq rem Chunk =/= 0 orelse pause(Seq, Pace),
    Topic = element(Seq rem tuple_size(Topics) + 1, Topics),
    ok = Send(Topic, <<N:16, Seq:48, Padding/binary>>),
    publish(Send, What, Limits, Seq + 1, Credit - 1, Stalls).

%% Waits until the message of that number is due.
pause(Seq, {Start, Interval}) ->
    Due = Start + Seq * Interval,
    timer:sleep(max(0, (Due - erlang:monotonic_time(nanosecond)) div 1000000)).

-spec go([pid()]) -> ok.
go(Publishers) ->
    lists:foreach(fun(Pid) -> Pid ! go end, Publishers).

%% @doc Ends publishers: how many messages they sent, and how often one stalled.
-spec stop([pid()]) -> {Sent :: non_neg_integer(), Stalls :: non_neg_integer()}.
stop(Publishers) ->
    _ = [Pid ! {stop, self()} || Pid <- Publishers],
    Counts = [receive {stopped, Pid, Sent, Stalls} -> {Sent, Stalls} end || Pid <- Publishers],
    {Sent, Stalls} = lists:unzip(Counts),
    {lists:sum(Sent), lists:sum(Stalls)}.

%% @doc Makes subscribers of all topics of a load, for these publishers.
-spec subscribers(load(), [pid()]) -> [pid()].
subscribers(#{subscribers := Count} = Load, Publishers) ->
    Counter = counters:new(1, [write_concurrency]),
    persistent_term:put({?MODULE, counter}, Counter),
    Pids = [
        begin
            Self = self(),
            Pid = spawn(fun() -> subscriber(Self, N, Counter, Load, Publishers) end),
            receive {subscribed, Pid} -> Pid end
        end
        || N <- lists:seq(0, Count - 1)
    ],
    Pids.

subscriber(Parent, N, Counter, Load, Publishers) ->
    #{topics := Topics, subscribers := Count, chunk := Chunk} = Load,
    _ = [ok = subscribe(Load, Topic) || Topic <- Topics],
    Parent ! {subscribed, self()},
    receive_all(N, Count, Chunk, list_to_tuple(Publishers), Counter).

subscribe(#{through := shim, channel := Channel}, Topic) ->
    esdb_channel_server:subscribe(Channel, Topic, self());
subscribe(#{through := System}, Topic) when System =/= gateway ->
    bench_rival:subscribe(System, Topic);
subscribe(#{node := Node, channel := Channel} = Load, Topic) ->
    At = maps:get(subscribe_at, Load, Node),
    gen_server:call({Channel, At}, {subscribe, Topic, self()}).

receive_all(N, Count, Chunk, Publishers, Counter) ->
    receive
        {channel_message, _, _, <<P:16, Seq:48, _/binary>>} ->
            counters:add(Counter, 1, 1),
            case Seq rem Chunk of
                0 when Seq div Chunk rem Count =:= N -> element(P, Publishers) ! ack;
                _ -> ok
            end,
            receive_all(N, Count, Chunk, Publishers, Counter)
    end.

%% @doc The time in nanoseconds and the number of deliveries so far.
-spec sample() -> {integer(), non_neg_integer()}.
sample() ->
    {erlang:monotonic_time(nanosecond), deliveries()}.

deliveries() ->
    counters:get(persistent_term:get({?MODULE, counter}), 1).

%% @doc Waits until so many deliveries were made, or no more come; how many are missing.
-spec settle(non_neg_integer()) -> non_neg_integer().
settle(Expected) ->
    settle(Expected, deliveries(), 0).

settle(Expected, Seen, Quiet) when Seen >= Expected; Quiet >= 20 ->
    max(0, Expected - Seen);
settle(Expected, Seen, Quiet) ->
    timer:sleep(50),
    case deliveries() of
        Seen -> settle(Expected, Seen, Quiet + 1);
        More -> settle(Expected, More, 0)
    end.

%% @doc Ends subscribers and waits until the gateway has noticed.
-spec forget(load(), [pid()]) -> ok.
forget(#{node := Node, channel := Channel, topics := [Topic | _]}, Subscribers) ->
    _ = [exit(Pid, kill) || Pid <- Subscribers],
    await_no_subscribers({Channel, Node}, Topic, 200).

await_no_subscribers(Server, Topic, Tries) when Tries > 0 ->
    case gen_server:call(Server, {get_subscribers, Topic}) of
        [] -> ok;
        _ -> timer:sleep(20), await_no_subscribers(Server, Topic, Tries - 1)
    end.

%% @doc Subscribes the same new processes to the topics of these numbers.
-spec subscribe_many(node(), atom(), pos_integer(), pos_integer(), pos_integer()) -> ok.
subscribe_many(Node, Channel, First, Last, Processes) ->
    Server = {Channel, Node},
    Pids = [spawn(fun Drop() -> receive _ -> Drop() end end) || _ <- lists:seq(1, Processes)],
    lists:foreach(
        fun(N) ->
            Topic = <<"bench.subscription.", (integer_to_binary(N))/binary>>,
            _ = [gen_server:cast(Server, {subscribe, Topic, Pid}) || Pid <- Pids],
            %% Waits for what was cast so far, now and then.
            N rem 100 =/= 0 andalso N =/= Last orelse
                (Processes = length(gen_server:call(Server, {get_subscribers, Topic}, 60000)))
        end,
        lists:seq(First, Last)
    ).

%% @doc Makes a subscriber that takes whatever comes.
-spec subscriber_of(node(), atom(), binary()) -> pid().
subscriber_of(Node, Channel, Topic) ->
    Pid = spawn(fun Drop() -> receive _ -> Drop() end end),
    ok = gen_server:call({Channel, Node}, {subscribe, Topic, Pid}),
    Pid.

%% @doc Makes a subscriber that keeps how long messages of {@link alarms/1} took.
-spec alarm_subscriber(node(), atom(), binary()) -> pid().
alarm_subscriber(Node, Channel, Topic) ->
    Self = self(),
    Pid = spawn(fun() ->
        %% Whatever else the node is busy with, the clock is read when the message is here.
        process_flag(priority, high),
        ok = gen_server:call({Channel, Node}, {subscribe, Topic, self()}),
        Self ! {subscribed, self()},
        keep_latencies([])
    end),
    receive {subscribed, Pid} -> Pid end.

keep_latencies(Latencies) ->
    receive
        {channel_message, _, _, #{sent := Sent}} ->
            Now = os:perf_counter(nanosecond),
            keep_latencies([(Now - Sent) / 1000 | Latencies]);
        {latencies, From} ->
            From ! {latencies, self(), Latencies}
    end.

%% @doc Publishes signed messages, one every so many milliseconds, for a while; how many. Or
%% sends them to a subscriber, past the gateway.
-spec alarms(#{node := node(), channel := atom(), topic := binary(), secret := binary(),
               every_ms := pos_integer(), for_ms := pos_integer(), past => pid()}) -> pos_integer().
alarms(#{every_ms := Every, for_ms := For} = Alarms) ->
    Count = For div Every,
    Start = erlang:monotonic_time(millisecond),
    lists:foreach(fun(N) -> alarm(Start + N * Every, Alarms) end, lists:seq(1, Count)),
    Count.

alarm(At, #{node := Node, channel := Channel, topic := Topic, secret := Secret} = Alarms) ->
    timer:sleep(max(0, At - erlang:monotonic_time(millisecond))),
    Message = #{sent => os:perf_counter(nanosecond), signed_at => erlang:system_time(second)},
    Bytes = term_to_binary(lists:sort(maps:to_list(Message)), [deterministic, {minor_version, 2}]),
    Signature = base64:encode(crypto:mac(hmac, sha256, Secret, Bytes)),
    Signed = Message#{signature => Signature},
    case Alarms of
        #{past := Subscriber} -> Subscriber ! {channel_message, Channel, Topic, Signed};
        #{} -> gen_server:cast({Channel, Node}, {publish, Topic, Signed})
    end.

%% @doc The latencies in microseconds that a subscriber has kept; it ends.
-spec latencies(pid()) -> [float()].
latencies(Pid) ->
    Pid ! {latencies, self()},
    receive {latencies, Pid, Latencies} -> Latencies end.

%% @doc Calls a server again and again: the times in microseconds at these percentiles.
-spec calls(pos_integer(), {atom(), node()}, {term(), [number()]}) -> [float()].
calls(Milliseconds, Server, {Request, Percents}) ->
    Times = bench:time_calls(Milliseconds, fun() -> gen_server:call(Server, Request) end),
    [bench:percentile(Times, Percent) || Percent <- Percents].

%% @doc Registers idle processes as workers of a store.
-spec workers(node(), atom(), pos_integer()) -> ok.
workers(Node, Store, Count) ->
    Register = fun(Pid) ->
        ok = gen_server:call({esdb_gater_worker_registry, Node}, {register, Store, Pid})
    end,
    lists:foreach(Register, [spawn(fun() -> receive stop -> ok end end)
                             || _ <- lists:seq(1, Count)]).
