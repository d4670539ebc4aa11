%% @doc What a BEAM user would pick instead, and `publish/3' of the shim, as they run on the nodes
%% of {@link bench_rivals}. All deliver `{channel_message, Channel, Topic, Message}'.
%%
%% <dl>
%% <dt>`ours'</dt><dd>`esdb_channel_server:publish/3', with the shim on both nodes.</dd>
%% <dt>`pg'</dt><dd>`pg:get_members/2' and a send to each.</dd>
%% <dt>`phoenix'</dt><dd>as Phoenix.PubSub does with its defaults: a process per node in a group of
%%   `pg' takes one copy and sends it to the subscribers of its node, which stand in a table; those
%%   of the publisher's node are sent to by the publisher.</dd>
%% <dt>`bare'</dt><dd>a send to one process of the other node, which sends to each subscriber.</dd>
%% <dt>`limit'</dt><dd>the same, handing out by subscriber what has come, up to 64 messages, over a
%%   connection with the socket options that the gateway asks for.</dd>
%% </dl>
-module(bench_rival).

-export([start/1, publisher/1, subscribe/2, await_known/3]).
-export([latency_subscriber/2, latencies/1, publish_paced/4]).
-export([register_stores/2, look_ups/3]).
-export_type([system/0]).

-type system() :: ours | pg | phoenix | bare | limit.

-define(CHANNEL, esdb_channel_events).
-define(SCOPE, bench_rivals).
-define(TABLE, bench_hub_subscribers).
-define(AT_ONCE, 64).
-define(BUFFER, 262144).

%% @doc Starts on this node what the rivals need; `Other' is the node at the other end.
-spec start(node()) -> ok.
start(Other) ->
    Self = self(),
    _ = spawn(fun() ->
        {ok, _} = pg:start(?SCOPE),
        ?TABLE = ets:new(?TABLE, [duplicate_bag, public, named_table, {read_concurrency, true}]),
        Hub = spawn(fun hub/0),
        ok = pg:join(?SCOPE, hub, Hub),
        true = register(bench_bare, spawn(fun() -> hand_out_each(#{}) end)),
        true = register(bench_limit, spawn(fun() -> hand_out_batches(#{}) end)),
        Self ! started,
        receive stop -> ok end
    end),
    receive started -> ok end,
    pong = net_adm:ping(Other),
    ok.

%% The connection is only tuned for the time of `limit': the others have what they have.
tune(Node, Options) ->
    case lists:keyfind(Node, 1, erlang:system_info(dist_ctrl)) of
        {_, Port} when is_port(Port) -> inet:setopts(Port, Options);
        _ -> ok
    end.

%% @doc What a publisher of this node publishes by.
-spec publisher(system()) -> fun((Topic :: binary(), Message :: binary()) -> ok).
publisher(ours) ->
    fun(Topic, Message) -> esdb_channel_server:publish(?CHANNEL, Topic, Message) end;
publisher(pg) ->
    fun(Topic, Message) ->
        send_all(pg:get_members(?SCOPE, {topic, Topic}), message(Topic, Message))
    end;
publisher(phoenix) ->
    fun(Topic, Message) ->
        _ = [Hub ! {forward, Topic, message(Topic, Message)}
             || Hub <- pg:get_members(?SCOPE, hub), node(Hub) =/= node()],
        dispatch(Topic, message(Topic, Message))
    end;
publisher(bare) -> to_relay(bench_bare, []);
publisher(limit) -> to_relay(bench_limit, [{buffer, ?BUFFER}, {delay_send, true}]).

to_relay(Name, Options) ->
    [Node] = [node(Hub) || Hub <- pg:get_members(?SCOPE, hub), node(Hub) =/= node()],
    _ = tune(Node, Options),
    _ = Options =/= [] andalso erpc:call(Node, fun() -> tune_back(Options) end),
    Relay = erpc:call(Node, erlang, whereis, [Name]),
    fun(Topic, Message) -> Relay ! {forward, Topic, message(Topic, Message)}, ok end.

tune_back(Options) ->
    [tune(Node, Options) || {Node, _} <- erlang:system_info(dist_ctrl)].

message(Topic, Message) -> {channel_message, ?CHANNEL, Topic, Message}.

%% @doc Subscribes the calling process.
-spec subscribe(system(), binary()) -> ok.
subscribe(ours, Topic) -> esdb_channel_server:subscribe(?CHANNEL, Topic, self());
subscribe(pg, Topic) -> pg:join(?SCOPE, {topic, Topic}, self());
subscribe(phoenix, Topic) -> true = ets:insert(?TABLE, {Topic, self()}), ok;
subscribe(bare, Topic) -> subscribe_at(bench_bare, Topic);
subscribe(limit, Topic) -> subscribe_at(bench_limit, Topic).

subscribe_at(Name, Topic) ->
    Ref = monitor(process, Name),
    Name ! {subscribe, self(), Ref, Topic},
    receive {Ref, ok} -> demonitor(Ref, [flush]), ok end.

%% @doc Waits until publishers of this node know so many subscribers, where they have to.
-spec await_known(system(), binary(), non_neg_integer()) -> ok.
await_known(pg, Topic, Count) ->
    case length(pg:get_members(?SCOPE, {topic, Topic})) of
        Count -> ok;
        _ -> timer:sleep(10), await_known(pg, Topic, Count)
    end;
await_known(_System, _Topic, _Count) ->
    ok.

%%% Handing out

hub() ->
    receive {forward, Topic, Message} -> dispatch(Topic, Message), hub() end.

dispatch(Topic, Message) ->
    lists:foreach(fun({_, Pid}) -> Pid ! Message end, ets:lookup(?TABLE, Topic)).

hand_out_each(Topics) ->
    receive
        {forward, Topic, Message} ->
            ok = send_all(maps:get(Topic, Topics, []), Message),
            hand_out_each(Topics);
        {subscribe, Pid, Ref, Topic} ->
            Pid ! {Ref, ok},
            hand_out_each(Topics#{Topic => [Pid | maps:get(Topic, Topics, [])]})
    end.

hand_out_batches(Topics) ->
    receive
        {forward, Topic, Message} ->
            Messages = [Message | more(Topic, ?AT_ONCE - 1)],
            lists:foreach(fun(Pid) -> lists:foreach(fun(M) -> Pid ! M end, Messages) end,
                          maps:get(Topic, Topics, [])),
            hand_out_batches(Topics);
        {subscribe, Pid, Ref, Topic} ->
            Pid ! {Ref, ok},
            hand_out_batches(Topics#{Topic => [Pid | maps:get(Topic, Topics, [])]})
    end.

more(_Topic, 0) -> [];
more(Topic, Left) ->
    receive {forward, Topic, Message} -> [Message | more(Topic, Left - 1)]
    after 0 -> []
    end.

send_all([Pid | Pids], Message) -> Pid ! Message, send_all(Pids, Message);
send_all([], _Message) -> ok.

%%% Latency

%% @doc Makes a subscriber that keeps how long messages took.
-spec latency_subscriber(system(), binary()) -> pid().
latency_subscriber(System, Topic) ->
    Self = self(),
    Pid = spawn(fun() -> ok = subscribe(System, Topic), Self ! {subscribed, self()}, keep([]) end),
    receive {subscribed, Pid} -> Pid end.

keep(Latencies) ->
    receive
        {channel_message, _, _, <<Sent:64>>} ->
            keep([(os:perf_counter(nanosecond) - Sent) / 1000 | Latencies]);
        {latencies, From} ->
            From ! {latencies, self(), Latencies}
    end.

%% @doc The latencies in microseconds that a subscriber has kept; it ends.
-spec latencies(pid()) -> [float()].
latencies(Pid) ->
    Pid ! {latencies, self()},
    receive {latencies, Pid, Latencies} -> Latencies end.

%% @doc Publishes a message every so many milliseconds, so many in all.
-spec publish_paced(system(), binary(), pos_integer(), pos_integer()) -> ok.
publish_paced(System, Topic, EveryMs, Count) ->
    Send = publisher(System),
    lists:foreach(fun(_) ->
        timer:sleep(EveryMs),
        ok = Send(Topic, <<(os:perf_counter(nanosecond)):64>>)
    end, lists:seq(1, Count)).

%%% Look-ups

%% @doc Registers this process, or joins it, under so many names.
-spec register_stores(ours | pg, [atom()]) -> ok.
register_stores(ours, Stores) ->
    Pid = spawn(fun() -> receive stop -> ok end end),
    lists:foreach(fun(Store) -> ok = esdb_gater_api:register_worker(Store, Pid) end, Stores);
register_stores(pg, Stores) ->
    Pid = spawn(fun() -> receive stop -> ok end end),
    lists:foreach(fun(Store) -> ok = pg:join(?SCOPE, {store, Store}, Pid) end, Stores).

%% @doc Look-ups per second, over all names in turns.
-spec look_ups(ours | pg, [atom()], pos_integer()) -> float().
look_ups(System, Stores, Milliseconds) ->
    Look = case System of
        ours -> fun(Store) -> {ok, [_]} = esdb_gater_api:get_workers(Store) end;
        pg -> fun(Store) -> [_] = pg:get_members(?SCOPE, {store, Store}) end
    end,
    Self = self(),
    _ = spawn(fun() ->
        Begin = erlang:monotonic_time(nanosecond),
        Self ! {looked_up, rounds(Look, Stores, Begin, Begin + Milliseconds * 1000000, 0)}
    end),
    receive {looked_up, PerSecond} -> PerSecond end.

rounds(Look, Stores, Begin, Until, Count) ->
    lists:foreach(Look, Stores),
    case erlang:monotonic_time(nanosecond) of
        Now when Now < Until -> rounds(Look, Stores, Begin, Until, Count + length(Stores));
        Now -> (Count + length(Stores)) * 1.0e9 / (Now - Begin)
    end.
