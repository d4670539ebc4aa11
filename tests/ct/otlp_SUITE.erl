%% @doc Spans and metrics by OTLP, taken and decoded by a stand-in for a collector.
-module(otlp_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([registrations_publications_and_relayed_messages_are_followed/1,
         metrics_are_those_of_the_table/1,
         a_collector_that_is_away_holds_up_nothing_and_is_told_of_once/1]).

-define(TOPIC, <<"zebra">>).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [registrations_publications_and_relayed_messages_are_followed, metrics_are_those_of_the_table,
     a_collector_that_is_away_holds_up_nothing_and_is_told_of_once].

init_per_testcase(_, Config) ->
    {ok, Listener} = gen_tcp:listen(0, [binary, {ip, {127, 0, 0, 1}}, {active, false}, {packet, http_bin},
                                        {reuseaddr, true}, {backlog, 64}]),
    {ok, Port} = inet:port(Listener),
    Store = ets:new(requests, [public, ordered_set]),
    Acceptor = spawn(fun() -> accept(Listener, Store) end),
    ok = gen_tcp:controlling_process(Listener, Acceptor),
    [{store, Store}, {acceptor, Acceptor}, {port, Port} | Config].

end_per_testcase(_, Config) ->
    exit(value(acceptor, Config), kill).

registrations_publications_and_relayed_messages_are_followed(Config) ->
    {ok, Cluster} = gater_cluster:start(#{gateways => 2, beams => 2, modules => [?MODULE],
        env => variables(Config)}),
    try
        [One, Other] = gater_cluster:gateways(Cluster),
        [Publisher, Subscriber] = gater_cluster:beams(Cluster),
        gater_cluster:settle(Cluster),
        ok = gater_cluster:on(Cluster, Subscriber, fun() ->
            Pid = spawn(fun() -> timer:sleep(infinity) end),
            ok = gen_server:call({esdb_gater_worker_registry, Other}, {register, my_store, Pid}),
            gen_server:call({esdb_channel_events, Other}, {subscribe, ?TOPIC, Pid})
        end),
        gater_harness:until(fun() ->
            gater_cluster:on(Cluster, Publisher, fun() ->
                ok = gen_server:call({esdb_channel_events, One}, {publish, ?TOPIC, hello}),
                {error, signature_required} =
                    gen_server:call({esdb_channel_alerts, One}, {publish, ?TOPIC, #{}})
            end),
            %% A span may come in a later request than one that ended after it.
            Came = spans(Config),
            Published = [Error || #{error := Error} <- named(<<"publish">>, Came)],
            named(<<"register">>, Came) =/= [] andalso named(<<"relay">>, Came) =/= []
                andalso [] =:= [none, <<"signature_required">>] -- Published
        end),
        Spans = spans(Config),
        [?assertMatch(#{store := <<"my_store">>, error := none, kind := 2, node := Other}, node_atom(Span))
         || Span <- named(<<"register">>, Spans)],
        Good = [Span || Span = #{error := none} <- named(<<"publish">>, Spans)],
        [?assertMatch(#{channel := <<"esdb_channel_events">>, topic := ?TOPIC, kind := 4, node := One},
                      node_atom(Span)) || Span <- Good],
        [_ | _] = [ok || #{error := <<"signature_required">>, channel := <<"esdb_channel_alerts">>}
                             <- named(<<"publish">>, Spans)],
        [?assertMatch(#{channel := <<"esdb_channel_events">>, topic := ?TOPIC, kind := 5, node := Other},
                      node_atom(Span)) || Span <- named(<<"relay">>, Spans)],
        %% Ids are there, no two spans share one, and time goes forward.
        Ids = [Id || #{ids := Id} <- Spans],
        ?assertEqual(length(Ids), length(lists:usort(Ids))),
        ?assertEqual([], [S || S = #{ids := {T, I}} <- Spans, byte_size(T) =/= 16 orelse byte_size(I) =/= 8]),
        ?assertEqual([], [S || S = #{took := Took} <- Spans, Took < 0])
    after
        gater_cluster:stop(Cluster)
    end.

metrics_are_those_of_the_table(Config) ->
    World = gater_harness:new(),
    try
        Gateway = gater_harness:gateway(World, #{env => variables(Config)}),
        Beam = gater_harness:node(World, #{modules => [?MODULE]}),
        [ok = gater_harness:call(Beam, {esdb_channel_events, Gateway}, {publish, ?TOPIC, N})
         || N <- lists:seq(1, 5)],
        gater_harness:until(fun() ->
            lists:member({<<"esdb_gater_messages_published">>, sum, <<"1">>,
                          [{<<"channel">>, <<"esdb_channel_events">>}], 5}, metrics(Config))
        end),
        gater_harness:until(fun() ->
            [ok || {<<"esdb_gater_resident_memory_bytes">>, gauge, <<"By">>, [], Bytes} <- metrics(Config),
                   Bytes > 100000] =/= []
        end),
        gater_harness:until(fun() ->
            [ok || {<<"esdb_gater_publish_seconds">>, histogram, <<"s">>,
                    [{<<"channel">>, <<"esdb_channel_events">>}], 1} <- metrics(Config)] =/= []
        end),
        [?assertMatch({_, _}, binary:match(Head, Header))
         || {Head, <<"/v1/metrics">>, _} <- requests(Config),
            Header <- [<<"application/x-protobuf">>, <<"a key">>]]
    after
        gater_harness:stop(World)
    end.

a_collector_that_is_away_holds_up_nothing_and_is_told_of_once(Config) ->
    exit(value(acceptor, Config), kill),
    World = gater_harness:new(),
    try
        Gateway = gater_harness:gateway(World, #{env => variables(Config)}),
        Beam = gater_harness:node(World, #{modules => [?MODULE]}),
        [ok = gater_harness:call(Beam, {esdb_channel_events, Gateway}, {publish, ?TOPIC, N})
         || N <- lists:seq(1, 50)],
        Told = fun() -> length(binary:matches(gater_harness:log(Gateway), <<"otlp.endpoint">>)) end,
        gater_harness:until(fun() -> Told() > 0 end),
        gater_harness:signal(Gateway, "TERM"),
        ?assertEqual(0, gater_harness:await_exit(World, Gateway)),
        ?assertEqual(1, Told())
    after
        gater_harness:stop(World)
    end.

variables(Config) ->
    [{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:" ++ integer_to_list(value(port, Config))},
     {"OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20key"},
     {"OTEL_TRACES_SAMPLER", "always_on"}, {"OTEL_BSP_SCHEDULE_DELAY", "100"},
     {"OTEL_METRIC_EXPORT_INTERVAL", "200"}].

%%% What was sent

requests(Config) -> [Request || {_, Request} <- ets:tab2list(value(store, Config))].

bodies(Config, Path) -> [Body || {_, P, Body} <- requests(Config), P =:= Path].

named(Name, Spans) -> [Span || Span = #{name := N} <- Spans, N =:= Name].

node_atom(Span = #{node := Node}) -> Span#{node := binary_to_atom(Node)}.

spans(Config) ->
    [span(at(1, Of), fields(Span))
     || Body <- bodies(Config, <<"/v1/traces">>), {1, OfNode} <- fields(Body), Of <- [fields(OfNode)],
        {2, Scope} <- Of, {2, Span} <- fields(Scope)].

span(Resource, Fields) ->
    Attributes = attributes(9, Fields),
    Named = attributes(1, fields(Resource)),
    Error = case at(15, Fields) of none -> none; Status -> at(2, fields(Status)) end,
    #{name => at(5, Fields), kind => at(6, Fields), ids => {at(1, Fields), at(2, Fields)},
      took => at(8, Fields) - at(7, Fields), error => Error,
      node => proplists:get_value(<<"service.instance.id">>, Named),
      store => proplists:get_value(<<"esdb_gater.store">>, Attributes),
      topic => proplists:get_value(<<"esdb_gater.topic">>, Attributes),
      channel => proplists:get_value(<<"messaging.destination.name">>, Attributes)}.

metrics(Config) ->
    lists:append([points(fields(Metric))
                  || Body <- bodies(Config, <<"/v1/metrics">>), {1, Of} <- fields(Body),
                     {2, Scope} <- fields(Of), {2, Metric} <- fields(Scope)]).

points(Metric) ->
    [{at(1, Metric), Kind, at(3, Metric), attributes(Place, Point), at(Value, Point)}
     || {Field, Kind, Place, Value} <- [{5, gauge, 7, 6}, {7, sum, 7, 6}, {9, histogram, 9, 4}],
        {F, Data} <- Metric, F =:= Field, {1, Encoded} <- fields(Data), Point <- [fields(Encoded)]].

attributes(Field, Fields) ->
    [{at(1, fields(Pair)), at(1, fields(at(2, fields(Pair))))} || {F, Pair} <- Fields, F =:= Field].

at(Field, Fields) -> proplists:get_value(Field, Fields, none).

%%% Protocol buffers: fields by number, whatever they mean

fields(<<>>) -> [];
fields(Bytes) ->
    {Tag, Rest} = varint(Bytes),
    {Value, More} = field(Tag band 7, Rest),
    [{Tag bsr 3, Value} | fields(More)].

field(0, Bytes) -> varint(Bytes);
field(1, <<Value:64/little, Rest/binary>>) -> {Value, Rest};
field(2, Bytes) ->
    {Length, Rest} = varint(Bytes),
    <<Value:Length/binary, More/binary>> = Rest,
    {Value, More};
field(5, <<Value:32/little, Rest/binary>>) -> {Value, Rest}.

varint(Bytes) -> varint(Bytes, 0, 0).

varint(<<1:1, Bits:7, Rest/binary>>, Shift, Sum) -> varint(Rest, Shift + 7, Sum bor (Bits bsl Shift));
varint(<<0:1, Bits:7, Rest/binary>>, Shift, Sum) -> {Sum bor (Bits bsl Shift), Rest}.

%%% The stand-in

accept(Listener, Store) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Pid = spawn(fun() -> receive go -> serve(Socket, Store, <<>>, <<>>, 0) end end),
    ok = gen_tcp:controlling_process(Socket, Pid),
    Pid ! go,
    accept(Listener, Store).

serve(Socket, Store, Path, Head, Length) ->
    case gen_tcp:recv(Socket, 0, 30000) of
        {ok, {http_request, 'POST', {abs_path, Asked}, _}} ->
            serve(Socket, Store, Asked, Head, Length);
        {ok, {http_header, _, 'Content-Length', _, Text}} ->
            serve(Socket, Store, Path, Head, binary_to_integer(Text));
        {ok, {http_header, _, _, _, Text}} ->
            serve(Socket, Store, Path, <<Head/binary, Text/binary, "\n">>, Length);
        {ok, http_eoh} ->
            ok = inet:setopts(Socket, [{packet, raw}]),
            {ok, Body} = gen_tcp:recv(Socket, Length, 30000),
            true = ets:insert(Store, {erlang:unique_integer([monotonic]), {Head, Path, Body}}),
            ok = gen_tcp:send(Socket, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            gen_tcp:close(Socket);
        _ ->
            gen_tcp:close(Socket)
    end.

value(Key, Config) -> proplists:get_value(Key, Config).
