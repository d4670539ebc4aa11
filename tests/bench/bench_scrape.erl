%% @doc What it costs that somebody scrapes the metrics of a gateway once a second.
-module(bench_scrape).
-behaviour(bench).

-export([title/0, run/1]).

-define(EVERY_MS, 1000).
-define(ANSWER_MS, 5000).
%% Scrapes that are measured on an idle gateway.
-define(SCRAPES, 5).

-spec title() -> string().
title() -> "scraping the metrics once a second".

-spec run(bench:options()) -> [bench:row()] | {skip, string()}.
run(#{gateway := plain}) ->
    {skip, "the Erlang gateway has no metrics"};
run(#{gateway := Program} = Options) ->
    bench_rig:scratch(fun(#{keep := Keep, dir := Dir} = Scratch) ->
        Port = free_port(),
        Node = bench_rig:name("ours") ++ "@127.0.0.1",
        Gateway = Keep(bench_rig:launch(Node, filename:absname(Program),
            ["start", "--name", Node, "--cookie-file", bench_rig:cookie_file(Scratch),
             "--data-dir", filename:join(Dir, "data"), "--embedded",
             "--http", "127.0.0.1:" ++ integer_to_list(Port)],
            filename:join(Dir, "ours.log"))),
        ok = bench_rig:await_ready(Gateway),
        Start = fun(Role) -> Keep(bench_rig:peer(bench_rig:name(Role), [], Scratch)) end,
        [Publisher, Subscriber] = Nodes = [Start(Role) || Role <- ["publisher", "subscriber"]],
        [pong = bench_rig:call(Peer, net_adm, ping, [list_to_atom(Node)], 10000) || Peer <- Nodes],
        %% Acknowledgements go from node to node, beside the gateway.
        pong = bench_rig:call(Subscriber, net_adm, ping,
                              [bench_rig:call(Publisher, erlang, node, [], 10000)], 10000),
        Rig = #{publisher => Publisher, subscriber => Subscriber},
        [deliveries(Rig, Gateway, Options, Port), cost(Gateway, Port)]
    end).

%% A second is the least that a scrape a second can be measured in.
deliveries(Rig, Gateway, #{milliseconds := Milliseconds} = Options, Port) ->
    Long = Options#{milliseconds := max(2 * ?EVERY_MS, Milliseconds)},
    Measure = fun() ->
        #{deliveries := Deliveries} = bench_throughput:measure(Rig, Gateway, Long,
            #{publishers => 4, subscribers => 100, size => 64}),
        Deliveries
    end,
    #{scraped := Scraped, alone := Alone} = bench:alternate(Options, #{
        scraped => fun() -> while_scraped(Port, Measure) end,
        alone => Measure
    }),
    #{what => "4 publishers, fan-out 100, 64 B, scraped once a second", unit => "deliveries/s",
      better => more, against => "not scraped", ours => Scraped, theirs => Alone, target => 0.99}.

while_scraped(Port, Measure) ->
    Scraper = spawn_link(fun() -> scrape_for_ever(Port) end),
    Result = Measure(),
    unlink(Scraper),
    exit(Scraper, kill),
    Result.

scrape_for_ever(Port) ->
    _ = scrape(Port),
    timer:sleep(?EVERY_MS),
    scrape_for_ever(Port).

%% Of a core, so that the share of what a gateway could deliver is less than that.
cost(Gateway, Port) ->
    Idle = cpu_of(Gateway, fun() -> timer:sleep(?SCRAPES * ?EVERY_MS) end),
    Scraped = cpu_of(Gateway, fun() ->
        [begin _ = scrape(Port), timer:sleep(?EVERY_MS) end || _ <- lists:seq(1, ?SCRAPES)]
    end),
    Each = max(0.0, Scraped - Idle) * 1000 / ?SCRAPES,
    #{what => "processor time of a scrape", unit => "ms", better => less,
      against => "1 % of a core for a second", ours => [Each], theirs => [10.0], target => 1.0}.

cpu_of(Gateway, Fun) ->
    Before = bench_rig:cpu_seconds(Gateway),
    Fun(),
    bench_rig:cpu_seconds(Gateway) - Before.

scrape(Port) ->
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    ok = gen_tcp:send(Socket, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    <<"HTTP/1.1 200 ", _/binary>> = Answer = answer(Socket, []),
    byte_size(Answer).

answer(Socket, Parts) ->
    case gen_tcp:recv(Socket, 0, ?ANSWER_MS) of
        {ok, Part} -> answer(Socket, [Parts, Part]);
        {error, closed} -> iolist_to_binary(Parts)
    end.

free_port() ->
    {ok, Listener} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Listener),
    ok = gen_tcp:close(Listener),
    Port.
