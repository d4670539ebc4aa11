%% @doc Publishing within a window, and local delivery: what `ok' promises, what is under way when
%% something is lost, and the order of a publisher whatever happens.
-module(publish_window_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([each_publisher_keeps_its_order_here_and_elsewhere/1,
         publishing_leaves_nothing_in_the_publisher_but_its_window/1,
         a_silent_gateway_fills_the_window_and_no_more/1,
         a_lost_gateway_ends_the_wait_and_what_was_under_way_is_counted/1,
         a_publisher_killed_in_mid_window_leaves_nothing_behind/1,
         a_publisher_that_migrates_in_mid_window_keeps_its_order/1,
         a_crash_of_the_link_or_the_acknowledger_loses_and_doubles_nothing/1,
         a_confirmed_publication_has_the_gateways_answer/1,
         confirming_may_be_the_default/1,
         publications_that_may_be_refused_are_called/1,
         a_window_over_pipes_holds_as_well/1]).
-export([subscribers_of_the_own_node_need_neither_relay_nor_gateway/1,
         a_subscriber_that_leaves_and_comes_back_gets_nothing_twice_or_late/1,
         a_crash_of_the_relay_interrupts_no_local_delivery/1,
         a_thousand_local_subscribers_and_more_get_one_copy_each/1,
         local_delivery_keeps_channels_and_topics_apart/1,
         a_subscriber_known_to_the_gateway_alone_gets_one_copy/1,
         a_node_without_a_relay_is_left_out_of_nothing/1,
         all_ways_of_publishing_keep_one_order/1]).
-export([told/4]).

-define(EVENTS, esdb_channel_events).
-define(AUDIT, esdb_channel_audit).
-define(TOPIC, <<"topic">>).
%% As esdb_gater_window has them: marks under way, and messages up to a mark.
-define(WINDOW, 4 * 128).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [each_publisher_keeps_its_order_here_and_elsewhere,
     publishing_leaves_nothing_in_the_publisher_but_its_window,
     a_silent_gateway_fills_the_window_and_no_more,
     a_lost_gateway_ends_the_wait_and_what_was_under_way_is_counted,
     a_publisher_killed_in_mid_window_leaves_nothing_behind,
     a_publisher_that_migrates_in_mid_window_keeps_its_order,
     a_crash_of_the_link_or_the_acknowledger_loses_and_doubles_nothing,
     a_confirmed_publication_has_the_gateways_answer, confirming_may_be_the_default,
     publications_that_may_be_refused_are_called, a_window_over_pipes_holds_as_well,
     subscribers_of_the_own_node_need_neither_relay_nor_gateway,
     a_subscriber_that_leaves_and_comes_back_gets_nothing_twice_or_late,
     a_crash_of_the_relay_interrupts_no_local_delivery,
     a_thousand_local_subscribers_and_more_get_one_copy_each,
     local_delivery_keeps_channels_and_topics_apart,
     a_subscriber_known_to_the_gateway_alone_gets_one_copy,
     a_node_without_a_relay_is_left_out_of_nothing,
     all_ways_of_publishing_keep_one_order].

init_per_testcase(_Case, Config) -> [{world, gater_harness:new()} | Config].

end_per_testcase(_Case, Config) -> gater_harness:stop(value(world, Config)).

%%% The window

each_publisher_keeps_its_order_here_and_elsewhere(Config) ->
    {_, A, B} = pair(Config, []),
    Subscribers = [subscriber(Beam, ?EVENTS, ?TOPIC) || Beam <- [A, A, B]],
    %% Some of them are large, and sent in fragments.
    on(A, fun() ->
        Publishers = [spawn_monitor(fun() ->
                          [ok = esdb_channel_server:publish(?EVENTS, ?TOPIC, {P, N, filler(N)})
                           || N <- lists:seq(1, 2000)]
                      end) || P <- lists:seq(1, 6)],
        [receive {'DOWN', Ref, process, _, normal} -> ok end || {_, Ref} <- Publishers]
    end),
    [begin
         until(fun() -> count(S) =:= 6 * 2000 end),
         Numbers = [{P, N} || {P, N, _} <- payloads(S)],
         [?assertEqual(lists:seq(1, 2000), [N || {Of, N} <- Numbers, Of =:= P])
          || P <- lists:seq(1, 6)]
     end || S <- Subscribers].

filler(N) when N rem 500 =:= 0 -> <<0:(200 * 1024 * 8)>>;
filler(_N) -> <<>>.

publishing_leaves_nothing_in_the_publisher_but_its_window(Config) ->
    {_, A, _} = pair(Config, []),
    on(A, fun() ->
        [ok = esdb_channel_server:publish(?EVENTS, ?TOPIC, N) || N <- lists:seq(1, 5000)],
        ok = esdb_channel_server:publish(?EVENTS, ?TOPIC, last, #{confirm => true}),
        gater_harness:until(fun() -> ets:info(esdb_gater_marks, size) =:= 0 end),
        ?assertEqual([{messages, []}, {monitors, []}, {links, []}],
                     process_info(self(), [messages, monitors, links])),
        ?assertEqual([{esdb_gater_window, ?EVENTS}], [K || {{esdb_gater_window, _} = K, _} <- get()])
    end).

a_silent_gateway_fills_the_window_and_no_more(Config) ->
    {Gateway, A, _} = pair(Config, [{gateway_timeout_ms, 1000}]),
    Dropped = dropped(A),
    settled(A, [1]),
    gater_harness:signal(Gateway, "STOP"),
    Sent = on(A, fun() -> until_refused(1) end),
    ?assert(Sent > 0),
    ?assert(Sent =< ?WINDOW),
    until(fun() -> lost(Dropped) =:= Sent end),
    gater_harness:signal(Gateway, "CONT").

a_lost_gateway_ends_the_wait_and_what_was_under_way_is_counted(Config) ->
    World = value(world, Config),
    {Gateway, A, B} = pair(Config, [{gateway_timeout_ms, 100000}]),
    Dropped = dropped(A),
    Subscriber = subscriber(B, ?EVENTS, ?TOPIC),
    settled(A, lists:seq(1, 100)),
    gater_harness:signal(Gateway, "STOP"),
    {_, Publisher} = Publishing = gater_harness:agent(A),
    Run = async(Publishing, fun() -> until_refused(101) end),
    until(fun() -> on(A, fun() -> waits(Publisher) end) end),
    gater_harness:signal(Gateway, "KILL"),
    Killed = gater_harness:stopwatch(),
    Sent = await(Run),
    _ = gater_harness:within(Killed, 30000),
    _ = gater_harness:await_exit(World, Gateway),
    %% Nothing of it can have been delivered, and each is counted, once.
    ?assertEqual(?WINDOW, Sent),
    until(fun() -> lost(Dropped) =:= Sent end),
    ?assertEqual(lists:seq(1, 100), payloads(Subscriber)),
    ?assertMatch([#{channel := ?EVENTS, lane := high, node := _, reason := gateway_lost}],
                 [Metadata || {_, Metadata} <- gater_harness:messages(Dropped)]),
    ?assertEqual(0, on(A, fun() -> ets:info(esdb_gater_marks, size) end)),
    %% The same gateway again: the same process goes on.
    _ = gater_harness:restart(World, Gateway),
    until(fun() ->
              in(Publishing, fun() -> esdb_channel_server:publish(?EVENTS, ?TOPIC, again) end) =:= ok
                  andalso lists:member(again, payloads(Subscriber))
          end),
    ?assertEqual(lists:seq(1, 100), [N || N <- payloads(Subscriber), is_integer(N)]).

a_publisher_killed_in_mid_window_leaves_nothing_behind(Config) ->
    {Gateway, A, B} = pair(Config, [{gateway_timeout_ms, 100000}]),
    Dropped = dropped(A),
    Subscriber = subscriber(B, ?EVENTS, ?TOPIC),
    settled(A, [1]),
    gater_harness:signal(Gateway, "STOP"),
    Publisher = on(A, fun() -> spawn(fun() -> until_refused(2) end) end),
    until(fun() -> on(A, fun() -> waits(Publisher) end) end),
    on(A, fun() -> exit(Publisher, kill) end),
    gater_harness:signal(Gateway, "CONT"),
    until(fun() -> on(A, fun() -> ets:info(esdb_gater_marks, size) =:= 0 end) end),
    State = on(A, fun() -> sys:get_state(esdb_gater_acknowledger) end),
    ?assertEqual(#{}, element(tuple_size(State), State)),
    %% What it had sent was sent.
    settled(A, [?WINDOW + 2]),
    until(fun() -> payloads(Subscriber) =:= lists:seq(1, ?WINDOW + 2) end),
    ?assertEqual(0, lost(Dropped)).

a_publisher_that_migrates_in_mid_window_keeps_its_order(Config) ->
    World = value(world, Config),
    Names = [gater_harness:unique("gater") ++ "@127.0.0.1" || _ <- [1, 2]],
    Self = self(),
    [spawn_link(fun() ->
         Self ! {Name, gater_harness:gateway(World, #{
             name => Name, args => ["--cluster", string:join(Names, ",")]})}
     end) || Name <- Names],
    [First, Second] = [receive {Name, Gateway} -> Gateway end || Name <- Names],
    [A, B] = [gater_shim:node(World, [?MODULE]) || _ <- [1, 2]],
    Env = [{gateway_timeout_ms, 100000}],
    ok = gater_shim:start(A, Env ++ gater_shim:named([First, Second])),
    ok = gater_shim:start(B, Env ++ gater_shim:named([Second, First])),
    Dropped = dropped(A),
    [Here, There] = Subscribers = [subscriber(Beam, ?EVENTS, ?TOPIC) || Beam <- [A, B]],
    Publishing = gater_harness:agent(A),
    Run = async(Publishing, fun() -> publish_until(1, []) end),
    {_, Publisher} = Publishing,
    until(fun() -> count(There) > 1000 end),
    gater_harness:signal(First, "STOP"),
    until(fun() -> on(A, fun() -> waits(Publisher) end) end),
    gater_harness:signal(First, "KILL"),
    _ = gater_harness:await_exit(World, First),
    Then = count(There),
    until(fun() -> count(There) > Then + 1000 end),
    stop(Publishing),
    Accepted = await(Run),
    until(fun() -> lists:all(fun(S) -> lists:last(payloads(S)) =:= hd(Accepted) end, Subscribers) end),
    %% On the own node all that was accepted arrived; elsewhere at most once and in order.
    ?assertEqual(lists:reverse(Accepted), payloads(Here)),
    Elsewhere = payloads(There),
    ?assertEqual(lists:usort(Elsewhere), Elsewhere),
    ?assertEqual([], ordsets:subtract(Elsewhere, payloads(Here))),
    ?assert(length(Elsewhere) < length(Accepted)),
    until(fun() -> lost(Dropped) > 0 end).

a_crash_of_the_link_or_the_acknowledger_loses_and_doubles_nothing(Config) ->
    {_, A, B} = pair(Config, []),
    Dropped = dropped(A),
    [Here, There] = Subscribers = [subscriber(Beam, ?EVENTS, ?TOPIC) || Beam <- [A, B]],
    Publishing = gater_harness:agent(A),
    Run = async(Publishing, fun() -> publish_until(1, []) end),
    Count = fun() -> count(There) end,
    [begin
         Then = Count(),
         until(fun() -> Count() > Then + 500 end),
         Killed = on(A, fun() -> Pid = whereis(Name), exit(Pid, kill), Pid end),
         until(fun() -> on(A, fun() -> is_pid(whereis(Name)) andalso whereis(Name) =/= Killed end) end)
     end || Name <- [esdb_gater_worker_registry, esdb_gater_acknowledger]],
    Then = Count(),
    until(fun() -> Count() > Then + 500 end),
    stop(Publishing),
    Accepted = lists:reverse(await(Run)),
    [until(fun() -> payloads(S) =:= Accepted end) || S <- Subscribers],
    ?assertEqual(Accepted, payloads(Here)),
    ?assertEqual(0, lost(Dropped)).

a_confirmed_publication_has_the_gateways_answer(Config) ->
    {Gateway, A, B} = pair(Config, [{gateway_timeout_ms, 100000}]),
    Subscribers = [subscriber(Beam, ?EVENTS, ?TOPIC) || Beam <- [A, B]],
    Publish = fun(N, Options) ->
                  on(A, fun() -> esdb_channel_server:publish(?EVENTS, ?TOPIC, N, Options) end)
              end,
    ok = Publish(1, #{confirm => true}),
    ok = Publish(2, #{confirm => false}),
    ok = Publish(3, #{}),
    [{error, badarg} = Publish(4, Options)
     || Options <- [#{confirm => maybe}, #{confirm => true, more => 1}, #{other => true}]],
    [until(fun() -> payloads(S) =:= [1, 2, 3] end) || S <- Subscribers],
    %% Nobody answers for a stopped gateway, and a lost one ends the wait.
    gater_harness:signal(Gateway, "STOP"),
    {_, Publisher} = Publishing = gater_harness:agent(A),
    Run = async(Publishing, fun() ->
        esdb_channel_server:publish(?EVENTS, ?TOPIC, 5, #{confirm => true})
    end),
    until(fun() -> on(A, fun() ->
              {current_function, Function} = process_info(Publisher, current_function),
              Function =:= {esdb_gater_window, call, 2}
          end) end),
    gater_harness:signal(Gateway, "KILL"),
    ?assertEqual({error, no_gateway}, await(Run)),
    ?assertEqual([[1, 2, 3], [1, 2, 3]], [payloads(S) || S <- Subscribers]).

confirming_may_be_the_default(Config) ->
    {_, A, B} = pair(Config, [{publish, confirmed}]),
    Subscriber = subscriber(B, ?EVENTS, ?TOPIC),
    on(A, fun() ->
        [ok = esdb_channel_server:publish(?EVENTS, ?TOPIC, N) || N <- lists:seq(1, 100)],
        ?assertEqual([], [K || {{esdb_gater_window, _} = K, _} <- get()]),
        ok = esdb_channel_server:publish(?EVENTS, ?TOPIC, 101, #{confirm => false}),
        ?assertMatch([_], [K || {{esdb_gater_window, _} = K, _} <- get()])
    end),
    until(fun() -> payloads(Subscriber) =:= lists:seq(1, 101) end).

publications_that_may_be_refused_are_called(Config) ->
    {_, A, _} = pair(Config, []),
    on(A, fun() ->
        {error, signature_required} = esdb_channel_server:publish(esdb_channel_alerts, ?TOPIC, #{}),
        Answers = [esdb_channel_server:publish(esdb_channel_diagnostics, ?TOPIC, N)
                   || N <- lists:seq(1, 300)],
        ?assertEqual([ok, {error, rate_limited}], lists:usort(Answers)),
        ?assertEqual([], [K || {{esdb_gater_window, _} = K, _} <- get()])
    end).

a_window_over_pipes_holds_as_well(Config) ->
    World = value(world, Config),
    Beam = gater_shim:node(World, [?MODULE], #{name => none}),
    ok = gater_shim:start(Beam, [{gateway_timeout_ms, 100000} | gater_shim:embedded(Beam)]),
    Dropped = dropped(Beam),
    Subscriber = subscriber(Beam, ?EVENTS, ?TOPIC),
    on(Beam, fun() ->
        [ok = esdb_channel_server:publish(?EVENTS, ?TOPIC, N) || N <- lists:seq(1, 5000)],
        gater_harness:until(fun() -> ets:info(esdb_gater_marks, size) =:= 0 end)
    end),
    until(fun() -> payloads(Subscriber) =:= lists:seq(1, 5000) end),
    {ok, OsPid} = on(Beam, fun esdb_gater_port:os_pid/0),
    settled(Beam, [5001]),
    gater_harness:signal(#{os_pid => OsPid}, "STOP"),
    {_, Publisher} = Publishing = gater_harness:agent(Beam),
    Run = async(Publishing, fun() -> until_refused(5002) end),
    until(fun() -> on(Beam, fun() -> waits(Publisher) end) end),
    gater_harness:signal(#{os_pid => OsPid}, "KILL"),
    Sent = await(Run),
    ?assertEqual(?WINDOW, Sent),
    until(fun() -> lost(Dropped) =:= Sent end).

%%% Local delivery

subscribers_of_the_own_node_need_neither_relay_nor_gateway(Config) ->
    {Gateway, A, B} = pair(Config, [{gateway_timeout_ms, 100000}]),
    [Here, _There] = Subscribers = [subscriber(Beam, ?EVENTS, ?TOPIC) || Beam <- [A, B]],
    settled(A, [0]),
    gater_harness:signal(Gateway, "STOP"),
    ok = on(A, fun() -> sys:suspend(?EVENTS) end),
    on(A, fun() ->
        [ok = esdb_channel_server:publish(?EVENTS, ?TOPIC, N) || N <- lists:seq(1, 100)]
    end),
    %% It has them when they are published.
    ?assertEqual(lists:seq(0, 100), payloads(Here)),
    gater_harness:signal(Gateway, "CONT"),
    ok = on(A, fun() -> sys:resume(?EVENTS) end),
    %% And the gateway sends none of them, but what others publish.
    ok = publish(B, ?EVENTS, ?TOPIC, last),
    [until(fun() -> lists:member(last, payloads(S)) end) || S <- Subscribers],
    until(fun() -> lists:sort(payloads(Here)) =:= lists:seq(0, 100) ++ [last] end).

a_subscriber_that_leaves_and_comes_back_gets_nothing_twice_or_late(Config) ->
    {_, A, _} = pair(Config, []),
    Publishers = [gater_harness:agent(A) || _ <- [1, 2]],
    Runs = [async({Beam, P}, fun() -> publish_marked(P, 1) end) || {Beam, P} <- Publishers],
    on(A, fun() ->
        [begin
             ok = esdb_channel_server:subscribe(?EVENTS, ?TOPIC, self()),
             %% From the answer on it is sent everything.
             ok = esdb_channel_server:publish(?EVENTS, ?TOPIC, {own, Round}),
             receive {channel_message, ?EVENTS, ?TOPIC, {own, Round}} -> ok end,
             ok = esdb_channel_server:unsubscribe(?EVENTS, ?TOPIC, self()),
             ok = esdb_channel_server:publish(?EVENTS, ?TOPIC, {late, Round})
         end || Round <- lists:seq(1, 50)],
        receive {channel_message, ?EVENTS, ?TOPIC, {late, _}} = Late -> error(Late)
        after 0 -> ok
        end
    end),
    Stayed = subscriber(A, ?EVENTS, ?TOPIC),
    Came = gater_harness:agent(A),
    [begin
         ok = subscribe(Came, ?EVENTS, ?TOPIC),
         Then = count(Came),
         until(fun() -> count(Came) > Then + 20 end),
         {_, Pid} = Came,
         ok = on(A, fun() -> esdb_channel_server:unsubscribe(?EVENTS, ?TOPIC, Pid) end)
     end || _ <- lists:seq(1, 20)],
    lists:foreach(fun stop/1, Publishers),
    _ = [await(Run) || Run <- Runs],
    %% Numbers of two publishers are mixed; of each it has an ascending part of what it published.
    [begin
         Numbers = [N || {Of, N} <- payloads(S), Of =:= P],
         ?assertNotEqual([], Numbers),
         ?assertEqual(lists:usort(Numbers), Numbers)
     end || S <- [Stayed, Came], {_, P} <- Publishers].

a_crash_of_the_relay_interrupts_no_local_delivery(Config) ->
    {_, A, B} = pair(Config, []),
    [Here, There] = [subscriber(Beam, ?EVENTS, ?TOPIC) || Beam <- [A, B]],
    Publishing = gater_harness:agent(A),
    Run = async(Publishing, fun() -> publish_until(1, []) end),
    [begin
         Then = count(There),
         until(fun() -> count(There) > Then + 300 end),
         Killed = on(A, fun() -> Pid = whereis(?EVENTS), exit(Pid, kill), Pid end),
         until(fun() -> on(A, fun() -> is_pid(whereis(?EVENTS)) andalso whereis(?EVENTS) =/= Killed end) end)
     end || _ <- lists:seq(1, 3)],
    %% The new relay is in the gateway's books again: what others publish comes.
    until(fun() -> publish(B, ?EVENTS, ?TOPIC, from_b) =:= ok
                       andalso lists:member(from_b, payloads(Here)) end),
    stop(Publishing),
    Accepted = lists:reverse(await(Run)),
    until(fun() -> [N || N <- payloads(There), is_integer(N)] =:= Accepted end),
    ?assertEqual(Accepted, [N || N <- payloads(Here), is_integer(N)]).

a_thousand_local_subscribers_and_more_get_one_copy_each(Config) ->
    {_, A, _} = pair(Config, []),
    on(A, fun() ->
        Agents = [gater_agent:start() || _ <- lists:seq(1, 1100)],
        [ok = esdb_channel_server:subscribe(?EVENTS, ?TOPIC, Agent) || Agent <- Agents],
        [ok = esdb_channel_server:publish(?EVENTS, ?TOPIC, N) || N <- [1, 2]],
        {Leave, Stay} = lists:split(200, Agents),
        [ok = esdb_channel_server:unsubscribe(?EVENTS, ?TOPIC, Agent) || Agent <- Leave],
        ok = esdb_channel_server:publish(?EVENTS, ?TOPIC, 3),
        Of = fun(Agent) -> [N || {channel_message, _, _, N} <- gater_agent:messages(Agent)] end,
        ?assertEqual([[1, 2, 3]], lists:usort([Of(Agent) || Agent <- Stay])),
        ?assertEqual([[1, 2]], lists:usort([Of(Agent) || Agent <- Leave]))
    end).

local_delivery_keeps_channels_and_topics_apart(Config) ->
    {_, A, _} = pair(Config, []),
    Places = [{Channel, Topic} || Channel <- [?EVENTS, ?AUDIT], Topic <- [<<"t">>, <<"t2">>, <<"t", 0>>]],
    Subscribers = [{subscriber(A, Channel, Topic), {Channel, Topic}} || {Channel, Topic} <- Places],
    [ok = publish(A, Channel, Topic, {Channel, Topic}) || {Channel, Topic} <- Places],
    [?assertEqual([Place], payloads(S)) || {S, Place} <- Subscribers].

a_subscriber_known_to_the_gateway_alone_gets_one_copy(Config) ->
    {#{node := Gateway}, A, _} = pair(Config, []),
    {_, Pid} = Raw = gater_harness:agent(A),
    ok = on(A, fun() -> gen_server:call({?EVENTS, Gateway}, {subscribe, ?TOPIC, Pid}) end),
    Kept = subscriber(A, ?EVENTS, ?TOPIC),
    on(A, fun() -> [ok = esdb_channel_server:publish(?EVENTS, ?TOPIC, N) || N <- lists:seq(1, 100)] end),
    [until(fun() -> payloads(S) =:= lists:seq(1, 100) end) || S <- [Raw, Kept]],
    %% Also with another publisher after all of that.
    ok = publish(A, ?EVENTS, ?TOPIC, 101),
    [until(fun() -> payloads(S) =:= lists:seq(1, 101) end) || S <- [Raw, Kept]].

%% Only a relay is left out, and a node without the application has none.
a_node_without_a_relay_is_left_out_of_nothing(Config) ->
    {#{node := Gateway}, _, B} = pair(Config, []),
    Plain = gater_harness:node(value(world, Config), #{modules => [?MODULE]}),
    {_, Pid} = Raw = gater_harness:agent(Plain),
    Kept = subscriber(B, ?EVENTS, ?TOPIC),
    on(Plain, fun() ->
        ok = gen_server:call({?EVENTS, Gateway}, {subscribe, ?TOPIC, Pid}),
        ok = gen_server:call({?EVENTS, Gateway}, {publish_elsewhere, ?TOPIC, 1}),
        ok = gen_server:cast({?EVENTS, Gateway}, {publish_elsewhere, ?TOPIC, 2}),
        ok = gen_server:call({?EVENTS, Gateway}, {acknowledge}),
        {error, {bad_topic, empty}} =
            gen_server:call({?EVENTS, Gateway}, {publish_elsewhere, <<>>, 3}),
        {error, signature_required} =
            gen_server:call({esdb_channel_alerts, Gateway}, {publish_elsewhere, ?TOPIC, 3})
    end),
    [until(fun() -> payloads(S) =:= [1, 2] end) || S <- [Raw, Kept]].

all_ways_of_publishing_keep_one_order(Config) ->
    {_, A, B} = pair(Config, []),
    Subscribers = [subscriber(Beam, ?EVENTS, ?TOPIC) || Beam <- [A, B]],
    on(A, fun() ->
        [ok = case N rem 3 of
                  0 -> esdb_channel_server:publish(?EVENTS, ?TOPIC, N, #{confirm => true});
                  1 -> esdb_channel_server:publish(?EVENTS, ?TOPIC, N);
                  2 -> gen_server:call(?EVENTS, {publish, ?TOPIC, N})
              end || N <- lists:seq(1, 600)]
    end),
    [until(fun() -> payloads(S) =:= lists:seq(1, 600) end) || S <- Subscribers].

%%% Publishers

%% Publishes numbers until one is refused; how many were not. In the publisher.
until_refused(N) -> until_refused(N, N).

until_refused(First, N) ->
    case esdb_channel_server:publish(?EVENTS, ?TOPIC, N) of
        ok -> until_refused(First, N + 1);
        {error, no_gateway} -> N - First
    end.

stop({Beam, Publisher}) -> on(Beam, fun() -> Publisher ! stop end).

%% Publishes numbers until told to stop; those that were accepted, the last first.
publish_until(N, Accepted) ->
    %% In bursts, so that there are not too many.
    receive stop -> Accepted
    after case N rem 20 of 0 -> 1; _ -> 0 end ->
        case esdb_channel_server:publish(?EVENTS, ?TOPIC, N) of
            ok -> publish_until(N + 1, [N | Accepted]);
            {error, no_gateway} -> publish_until(N + 1, Accepted)
        end
    end.

publish_marked(Who, N) ->
    receive stop -> ok
    after case N rem 20 of 0 -> 1; _ -> 0 end ->
        ok = esdb_channel_server:publish(?EVENTS, ?TOPIC, {Who, N}),
        publish_marked(Who, N + 1)
    end.

%% Whether a publisher waits for room in its window. On its node.
waits(Publisher) ->
    {current_stacktrace, Stack} = process_info(Publisher, current_stacktrace),
    lists:any(fun({Module, Function, _, _}) ->
                  {Module, Function} =:= {esdb_gater_acknowledger, await}
              end, Stack).

%% Publishes something, and waits until the gateway has acknowledged all there is.
settled(Beam, Messages) ->
    on(Beam, fun() ->
        [ok = esdb_channel_server:publish(?EVENTS, ?TOPIC, Message) || Message <- Messages],
        gater_harness:until(fun is_settled/0)
    end).

is_settled() ->
    lists:all(fun(Window) -> atomics:get(element(6, Window), 2) =:= 0 end,
              ets:tab2list(esdb_gater_windows))
        andalso ets:info(esdb_gater_marks, size) =:= 0.

%% Runs a function in an agent; see `await/1'.
async({Beam, Pid}, Fun) ->
    Self = self(),
    Ref = make_ref(),
    spawn(fun() -> Self ! {Ref, on(Beam, fun() -> gater_agent:run(Pid, Fun) end)} end),
    Ref.

await(Ref) ->
    receive {Ref, Result} -> Result end.

%%% Losses

dropped(Beam) ->
    {_, Pid} = Agent = gater_harness:agent(Beam),
    ok = on(Beam, fun() ->
        esdb_gater_telemetry:attach(dropped, fun ?MODULE:told/4, Pid)
    end),
    Agent.

%% @private
told([esdb_gater, channel, dropped], #{count := Count}, Metadata, Pid) -> Pid ! {Count, Metadata};
told(_Event, _Measurements, _Metadata, _Pid) -> ok.

lost(Agent) ->
    lists:sum([Count || {Count, #{reason := gateway_lost}} <- gater_harness:messages(Agent)]).

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

%% A gateway, a publisher's node and another one.
pair(Config, Env) ->
    World = value(world, Config),
    Gateway = gater_harness:gateway(World),
    [A, B] = [gater_shim:node(World, [?MODULE]) || _ <- [1, 2]],
    [ok = gater_shim:start(Beam, Env ++ gater_shim:named([Gateway])) || Beam <- [A, B]],
    {Gateway, A, B}.

on(Beam, Fun) -> gater_harness:on(Beam, Fun, 90000).

in(Agent, Fun) -> gater_harness:in(Agent, Fun).

until(Condition) -> gater_harness:until(Condition).

subscriber(Beam, Channel, Topic) ->
    Agent = gater_harness:agent(Beam),
    ok = subscribe(Agent, Channel, Topic),
    Agent.

subscribe({Beam, Pid}, Channel, Topic) ->
    on(Beam, fun() -> esdb_channel_server:subscribe(Channel, Topic, Pid) end).

publish(Beam, Channel, Topic, Message) ->
    on(Beam, fun() -> esdb_channel_server:publish(Channel, Topic, Message) end).

count({Beam, Pid}) -> on(Beam, fun() -> length(gater_agent:messages(Pid)) end).

payloads(Agent) -> [Payload || {channel_message, _, _, Payload} <- gater_harness:messages(Agent)].
