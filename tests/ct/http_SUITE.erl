%% @doc What a gateway serves by HTTP, and what clients cannot do to it.
-module(http_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([metrics_count_what_happens/1, promtool_takes_the_metrics/1,
         the_page_comes_with_a_policy_and_from_the_gateway_alone/1,
         only_reading_is_allowed_and_only_under_the_addresses_own_name/1,
         a_client_that_is_slow_long_or_silent_is_cut_off/1,
         any_number_of_silent_clients_leaves_the_gateway_and_its_page_alone/1,
         gateways_of_one_host_do_not_collide_unless_told_to/1,
         an_embedded_gateway_opens_no_port_for_it/1,
         a_gateway_without_a_majority_is_alive_and_not_ready/1]).

-define(TOPIC, <<"zebra">>).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [metrics_count_what_happens, promtool_takes_the_metrics,
     the_page_comes_with_a_policy_and_from_the_gateway_alone,
     only_reading_is_allowed_and_only_under_the_addresses_own_name,
     a_client_that_is_slow_long_or_silent_is_cut_off,
     any_number_of_silent_clients_leaves_the_gateway_and_its_page_alone,
     gateways_of_one_host_do_not_collide_unless_told_to,
     an_embedded_gateway_opens_no_port_for_it,
     a_gateway_without_a_majority_is_alive_and_not_ready].

init_per_suite(Config) ->
    World = gater_harness:new(),
    Gateway = gater_harness:gateway(World, #{args => ["--http", "127.0.0.1:0"],
        config => "[channels.rare]\nmax_rate = 1\n[channels.\"a\\\"b{}\\\\\"]\npriority = \"low\"\n"}),
    Beam = gater_harness:node(World, #{modules => [?MODULE]}),
    [{world, World}, {gateway, Gateway}, {beam, Beam} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

metrics_count_what_happens(Config) ->
    Agent = {_, Pid} = gater_harness:agent(value(beam, Config)),
    ok = call(Config, esdb_gater_worker_registry, {register, my_store, Pid}),
    ok = call(Config, esdb_channel_events, {subscribe, ?TOPIC, Pid}),
    [ok = call(Config, esdb_channel_events, {publish, ?TOPIC, N}) || N <- lists:seq(1, 40)],
    ok = call(Config, rare, {publish, ?TOPIC, once}),
    {error, rate_limited} = call(Config, rare, {publish, ?TOPIC, twice}),
    {error, signature_required} = call(Config, esdb_channel_alerts, {publish, ?TOPIC, #{}}),
    gater_harness:until(fun() -> length(gater_harness:messages(Agent)) =:= 40 end),
    Expected = [<<"esdb_gater_messages_published_total{channel=\"esdb_channel_events\"} 40">>,
                <<"esdb_gater_messages_delivered_total{channel=\"esdb_channel_events\"} 40">>,
                <<"esdb_gater_requests_refused_total{channel=\"rare\",reason=\"rate_limited\"} 1">>,
                <<"esdb_gater_requests_refused_total{channel=\"esdb_channel_alerts\","
                  "reason=\"signature_required\"} 1">>,
                %% One of sixteen is measured.
                <<"esdb_gater_publish_seconds_count{channel=\"esdb_channel_events\"} 3">>,
                <<"esdb_gater_registry_registrations 1">>,
                <<"esdb_gater_peers{kind=\"beam\",state=\"connected\"} 1">>,
                <<"esdb_gater_consensus_role{role=\"leader\"} 1">>,
                <<"esdb_gater_consensus_has_quorum 1">>,
                <<"esdb_gater_ready 1">>],
    gater_harness:until(fun() ->
        {200, _, Body} = get(Config, "/metrics"),
        Lines = binary:split(Body, <<"\n">>, [global]),
        Expected -- Lines =:= []
    end),
    {200, Headers, Body} = get(Config, "/metrics"),
    ?assertMatch({_, _}, binary:match(Headers, <<"content-type: text/plain; version=0.0.4">>)),
    {200, Open, New} = request(Config, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                                       "Accept: application/openmetrics-text; version=1.0.0\r\n\r\n"),
    ?assertMatch({_, _}, binary:match(Open, <<"content-type: application/openmetrics-text">>)),
    ?assertMatch({_, _}, binary:match(New, <<"\n# EOF\n">>)),
    %% Nobody who can connect or publish makes series.
    [?assertEqual(nomatch, binary:match(Body, Text))
     || Text <- [?TOPIC, <<"my_store">>, atom_to_binary(maps:get(node, value(beam, Config)))]].

promtool_takes_the_metrics(Config) ->
    case os:find_executable("promtool") of
        false ->
            {skip, "NOT CHECKED: there is no promtool; apt-get install prometheus brings it"};
        Promtool ->
            {200, _, Body} = get(Config, "/metrics"),
            File = filename:join(gater_harness:dir(value(world, Config)), "metrics"),
            ok = file:write_file(File, Body),
            ?assertEqual("0\n", os:cmd(Promtool ++ " check metrics <" ++ File ++ " >" ++ File
                                       ++ ".said 2>&1; echo $?"), element(2, file:read_file(File ++ ".said")))
    end.

the_page_comes_with_a_policy_and_from_the_gateway_alone(Config) ->
    [begin
         {200, Headers, Body} = get(Config, Path),
         ?assertMatch({_, _}, binary:match(Headers, list_to_binary("content-type: " ++ Kind)), Path),
         [?assertMatch({_, _}, binary:match(Headers, Header), {Path, Header})
          || Header <- [<<"content-security-policy: default-src 'none'">>,
                        <<"x-content-type-options: nosniff">>, <<"x-frame-options: DENY">>,
                        <<"cache-control: no-store">>]],
         ?assert(byte_size(Body) > 0)
     end || {Path, Kind} <- [{"/", "text/html"}, {"/page.css", "text/css"},
                             {"/page.js", "text/javascript"}, {"/status.json", "application/json"},
                             {"/livez", "text/plain"}, {"/readyz", "text/plain"}]],
    {404, _, _} = get(Config, "/../../etc/passwd"),
    {404, _, _} = get(Config, "/nothing"),
    {200, _, Json} = get(Config, "/status.json"),
    [?assertMatch({_, _}, binary:match(Json, Part))
     || Part <- [<<"\"lost_connections\":">>, <<"\"history\":">>, <<"\"slow\":">>]].

only_reading_is_allowed_and_only_under_the_addresses_own_name(Config) ->
    [?assertMatch({405, _, _}, request(Config, Method ++ " /status.json HTTP/1.1\r\nHost: localhost\r\n"
                                               "Content-Length: 0\r\nConnection: close\r\n\r\n"))
     || Method <- ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"]],
    {200, _, <<>>} = request(Config, "HEAD /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    %% A page of somebody else, under a name that was made to stand for 127.0.0.1.
    {421, _, _} = request(Config, "GET /status.json HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").

a_client_that_is_slow_long_or_silent_is_cut_off(Config) ->
    Silent = connect(Config),
    Slow = connect(Config),
    ok = gen_tcp:send(Slow, "GET / HTTP/1.1\r\nHost: local"),
    Long = connect(Config),
    _ = gen_tcp:send(Long, ["GET / HTTP/1.1\r\nHost: localhost\r\nX: ", binary:copy(<<"x">>, 1 bsl 17)]),
    Noise = connect(Config),
    _ = gen_tcp:send(Noise, binary:copy(<<0, 255>>, 1000)),
    [gater_harness:until(fun() -> ended(Socket) end, 60000) || Socket <- [Long, Noise, Slow, Silent]],
    {200, _, _} = get(Config, "/livez").

any_number_of_silent_clients_leaves_the_gateway_and_its_page_alone(Config) ->
    Sockets = [connect(Config) || _ <- lists:seq(1, 500)],
    [_ = gen_tcp:send(Socket, "GET /status.json HTTP/1.1\r\n") || Socket <- Sockets],
    {200, _, <<"ok\n">>} = get(Config, "/livez"),
    ok = call(Config, esdb_channel_events, {publish, ?TOPIC, still}),
    pong = gater_harness:on(value(beam, Config), fun() ->
        net_adm:ping(maps:get(node, value(gateway, Config)))
    end),
    [gen_tcp:close(Socket) || Socket <- Sockets].

gateways_of_one_host_do_not_collide_unless_told_to(Config) ->
    %% Free now, and taken by the first.
    {ok, Free} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Free),
    gen_tcp:close(Free),
    Address = "127.0.0.1:" ++ integer_to_list(Port),
    World = value(world, Config),
    First = gater_harness:gateway(World, #{args => ["--http", Address]}),
    ?assertEqual(list_to_binary(Address), http(Config, First)),
    {error, {ended, 1, Text}} = gater_harness:launch(World, #{args => ["--http", Address]}),
    ?assertMatch({_, _}, binary:match(Text, <<"http.listen">>), Text),
    Off = gater_harness:gateway(World, #{args => ["--http", "off"]}),
    ?assertEqual(null, http(Config, Off)),
    {error, {ended, 64, Wrong}} = gater_harness:launch(World, #{args => ["--http", "somewhere"]}),
    ?assertMatch({_, _}, binary:match(Wrong, <<"http.listen">>), Wrong).

an_embedded_gateway_opens_no_port_for_it(Config) ->
    %% Those of the tests are embedded.
    ?assertEqual(null, http(Config, gater_harness:gateway(value(world, Config)))).

a_gateway_without_a_majority_is_alive_and_not_ready(_Config) ->
    {ok, Cluster} = gater_cluster:start(#{beams => 1, modules => [?MODULE], args => ["--http", "127.0.0.1:0"]}),
    try
        Leader = gater_cluster:leader(Cluster),
        Others = [One, Two] = gater_cluster:gateways(Cluster) -- [Leader],
        [Beam] = gater_cluster:beams(Cluster),
        Address = address(gater_cluster:on(Cluster, Beam, fun() ->
            {ok, Json} = gen_server:call({esdb_gater_observer, Leader}, {report, status, #{}}),
            Json
        end)),
        Metric = fun(Line) ->
            {200, _, Body} = fetch(Address, "/metrics"),
            binary:match(Body, <<Line/binary, "\n">>) =/= nomatch
        end,
        gater_harness:until(fun() -> element(1, fetch(Address, "/readyz")) =:= 200 end),
        gater_cluster:kill(Cluster, One),
        gater_harness:until(fun() ->
            Metric(<<"esdb_gater_alarm{alarm=\"quorum_at_risk\"} 1">>)
        end),
        200 = element(1, fetch(Address, "/readyz")),
        gater_cluster:kill(Cluster, Two),
        gater_harness:until(fun() ->
            {Code, _, Body} = fetch(Address, "/readyz"),
            Code =:= 503 andalso binary:match(Body, <<"[-] quorum failed: ">>) =/= nomatch
        end),
        gater_harness:until(fun() ->
            Metric(<<"esdb_gater_alarm{alarm=\"quorum_lost\"} 1">>)
                andalso Metric(<<"esdb_gater_consensus_has_quorum 0">>)
        end),
        {200, _, <<"ok\n">>} = fetch(Address, "/livez"),
        [gater_cluster:up(Cluster, Gateway) || Gateway <- Others],
        gater_cluster:settle(Cluster),
        gater_harness:until(fun() ->
            element(1, fetch(Address, "/readyz")) =:= 200
                andalso Metric(<<"esdb_gater_alarm{alarm=\"quorum_lost\"} 0">>)
                andalso Metric(<<"esdb_gater_alarm{alarm=\"quorum_at_risk\"} 0">>)
        end)
    after
        gater_cluster:stop(Cluster)
    end.

%%% HTTP, byte by byte

get(Config, Path) -> fetch(own(Config), Path).

fetch(Address, Path) ->
    exchange(Address, ["GET ", Path, " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"]).

request(Config, Text) -> exchange(own(Config), Text).

exchange(Address, Text) ->
    Socket = open(Address),
    ok = gen_tcp:send(Socket, Text),
    Answer = all_of(Socket, []),
    [Head, Body] = binary:split(Answer, <<"\r\n\r\n">>),
    <<"HTTP/1.1 ", Code:3/binary, _/binary>> = Head,
    {binary_to_integer(Code), Head, Body}.

all_of(Socket, Parts) ->
    case gen_tcp:recv(Socket, 0, 30000) of
        {ok, Part} -> all_of(Socket, [Parts, Part]);
        {error, closed} -> iolist_to_binary(Parts)
    end.

connect(Config) -> open(own(Config)).

open({Ip, Port}) ->
    {ok, Socket} = gen_tcp:connect(Ip, Port, [binary, {active, false}]),
    Socket.

%% Whether the other end has closed a connection, whatever it said before.
ended(Socket) ->
    case gen_tcp:recv(Socket, 0, 100) of
        {ok, _} -> ended(Socket);
        {error, timeout} -> false;
        {error, _} -> true
    end.

own(Config) -> address(status(Config, value(gateway, Config))).

address(Status) ->
    {match, [Ip, Port]} = re:run(Status, "\"http\":\"([^\"]+):([0-9]+)\"",
                                 [{capture, all_but_first, list}]),
    {ok, Address} = inet:parse_address(Ip),
    {Address, list_to_integer(Port)}.

http(Config, Gateway) ->
    case re:run(status(Config, Gateway), "\"http\":(null|\"[^\"]+\")",
                [{capture, all_but_first, binary}]) of
        {match, [<<"null">>]} -> null;
        {match, [Quoted]} -> binary:part(Quoted, 1, byte_size(Quoted) - 2)
    end.

status(Config, Gateway) ->
    {ok, Json} = gater_harness:call(value(beam, Config), {esdb_gater_observer, Gateway},
                                    {report, status, #{}}),
    Json.

call(Config, Name, Request) ->
    gater_harness:call(value(beam, Config), {Name, value(gateway, Config)}, Request).

value(Key, Config) -> proplists:get_value(Key, Config).
