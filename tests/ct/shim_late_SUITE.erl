%% @doc The shim with a gateway that answers late, refuses, or offers a worker no more. The gateway
%% is a process of a BEAM node that answers when the test says so.
-module(shim_late_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, init_per_group/2, end_per_group/2, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([a_late_registration_is_taken_back_unless_it_is_wanted/1,
         a_refused_topic_that_is_given_up_leaves_nothing/1,
         a_worker_that_is_offered_no_more_is_forgotten/1,
         a_worker_that_is_never_offered_is_forgotten/1]).

-define(EVENTS, esdb_channel_events).
-define(REGISTRY, esdb_gater_worker_registry).
-define(FRONTS, [?REGISTRY, esdb_gater_session, ?EVENTS]).

suite() -> [{timetrap, {minutes, 4}}].

all() -> [{group, otp25}, {group, otp27}, {group, otp29}].

groups() ->
    Cases =
        [a_late_registration_is_taken_back_unless_it_is_wanted,
         a_refused_topic_that_is_given_up_leaves_nothing,
         a_worker_that_is_offered_no_more_is_forgotten,
         a_worker_that_is_never_offered_is_forgotten],
    [{Release, Cases} || Release <- [otp25, otp27, otp29]].

init_per_group(Group, Config) -> gater_harness:on_release(Group, Config).

end_per_group(_Group, _Config) -> ok.

init_per_testcase(_Case, Config) ->
    World = gater_harness:new(),
    Gateway = gater_harness:node(World, #{modules => [?MODULE]}),
    ok = on(Gateway, fun start/0),
    Beam = gater_shim:node(World, [?MODULE], #{otp => value(otp, Config)}),
    ok = gater_shim:start(Beam, gater_shim:named([Gateway])),
    ?assertEqual({ok, maps:get(node, Gateway)},
                 on(Beam, fun() -> esdb_gater_link:await_gateway(5000) end)),
    [{world, World}, {gateway, Gateway}, {beam, Beam} | Config].

end_per_testcase(_Case, Config) ->
    gater_harness:stop(value(world, Config)).

%% Every order in which the answers to two registrations of one worker can come, when the caller
%% of the first has been told that it failed.
a_late_registration_is_taken_back_unless_it_is_wanted(Config) ->
    Worker = worker(Config),
    Again = [wins_before, wins_after, is_refused_before, is_refused_after, expires],
    First = [register_worker(Config, Store, Worker) || Store <- [alone | Again]],
    [?assertEqual({error, no_gateway}, result(Config, Caller)) || Caller <- First],
    Second = [register_worker(Config, Store, Worker) || Store <- Again],
    [await_requests(Config, Store, [register, register]) || Store <- Again],
    [answer(Config, Store, Number, Answer)
     || {Store, Number, Answer} <- [{alone, 1, ok},
                                    {wins_before, 2, ok}, {wins_before, 1, ok},
                                    {wins_after, 1, ok}, {wins_after, 2, ok},
                                    {is_refused_before, 2, {error, overloaded}},
                                    {is_refused_before, 1, ok},
                                    {is_refused_after, 1, ok},
                                    {is_refused_after, 2, {error, overloaded}},
                                    {expires, 1, ok}]],
    [?assertEqual(Expected, result(Config, Caller))
     || {Expected, Caller} <- lists:zip([ok, ok, {error, overloaded}, {error, overloaded},
                                         {error, no_gateway}], Second)],
    %% What comes of the answers is requested before these.
    [ok = result(Config, register_worker(Config, free, Worker)) || _ <- [1, 2]],
    ?assertEqual([{Store, [register, register]} || Store <- [wins_before, wins_after]],
                 [{Store, requests(Config, Store)} || Store <- [wins_before, wins_after]]),
    ?assertEqual([register, unregister], requests(Config, alone)),
    [?assertEqual([register, register, unregister], requests(Config, Store))
     || Store <- [is_refused_before, is_refused_after, expires]],
    ?assertEqual([{Store, Worker} || Store <- [free, wins_after, wins_before]],
                 on(value(beam, Config), fun esdb_gater_desired:active/0)).

a_refused_topic_that_is_given_up_leaves_nothing(Config) ->
    %% Once it has been given up, the answers to that may still be under way: it is empty now.
    Before = words(Config),
    Topics = [integer_to_binary(I) || I <- lists:seq(1, 200)],
    ok = refused_and_given_up(Config, Topics),
    gater_harness:until(fun() -> words(Config) =:= Before end, 60000),
    %% The gateway may be one that had them before it refused.
    %% The relay leaves, and the process with it.
    [await_requests(Config, Topic, [keep, leave, leave]) || Topic <- Topics].

a_worker_that_is_offered_no_more_is_forgotten(Config) ->
    Beam = value(beam, Config),
    {_, Worker} = gater_harness:agent(value(gateway, Config)),
    ok = result(Config, register_worker(Config, free, Worker)),
    ok = tell_link(Config, {esdb_gater_registry, added, 2, free, Worker}),
    ok = tell_link(Config, {esdb_gater_registry, removed, 3, free, Worker}),
    until(fun() -> on(Beam, fun esdb_gater_desired:active/0) =:= [] end),
    ok = is_forgotten(Config).

%% As one on a host that no gateway reaches.
a_worker_that_is_never_offered_is_forgotten(Config) ->
    Beam = value(beam, Config),
    {_, Worker} = gater_harness:agent(value(gateway, Config)),
    ok = result(Config, register_worker(Config, free, Worker)),
    ?assertEqual([{free, Worker}], on(Beam, fun esdb_gater_desired:active/0)),
    %% As it does now and then.
    on(Beam, fun() -> ?REGISTRY ! reassert, ok end),
    until(fun() -> on(Beam, fun esdb_gater_desired:active/0) =:= [] end),
    ok = is_forgotten(Config).

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

on(Beam, Fun) -> gater_harness:on(Beam, Fun).

until(Condition) -> gater_harness:until(Condition).

worker(Config) ->
    {_, Worker} = gater_harness:agent(value(beam, Config)),
    Worker.

%% The one registration that there is, at the second time.
is_forgotten(Config) ->
    Forget = fun() ->
        on(value(beam, Config), fun() -> ?REGISTRY ! forget, esdb_gater_link:status() end)
    end,
    ?assertMatch(#{wanted := 1}, Forget()),
    ?assertMatch(#{wanted := 0}, Forget()),
    ok.

%% Somebody who registers and keeps the answer.
register_worker(Config, Store, Worker) ->
    on(value(beam, Config), fun() ->
        spawn(fun() ->
            Result = esdb_gater_api:register_worker(Store, Worker),
            receive {result, From} -> From ! {self(), Result} end
        end)
    end).

result(Config, Caller) ->
    on(value(beam, Config), fun() ->
        Caller ! {result, self()},
        receive {Caller, Result} -> Result end
    end).

%% The gateway has refused them before it hears of their end: both come from it, in this order.
refused_and_given_up(Config, Topics) ->
    Beam = #{node := Node} = value(beam, Config),
    {_, Pid} = gater_harness:agent(Beam),
    on(Beam, fun() -> [gen_server:cast(?EVENTS, {subscribe, Topic, Pid}) || Topic <- Topics] end),
    [await_requests(Config, Topic, [keep]) || Topic <- Topics],
    [ok = ask(Config, {cast, {?EVENTS, Node}, {unsubscribe, Topic, Pid}}) || Topic <- Topics],
    until(fun() -> on(Beam, fun() -> ets:tab2list(esdb_gater_subscribers) end) =:= [] end).

%% What the relay remembers.
words(Config) ->
    on(value(beam, Config), fun() -> erts_debug:flat_size(sys:get_state(?EVENTS)) end).

%%% The gateway

%% What it was asked for a store or topic, in order.
requests(Config, About) -> ask(Config, {requests, About}).

await_requests(Config, About, Kinds) -> until(fun() -> requests(Config, About) =:= Kinds end).

%% Answers the request of that number for a store.
answer(Config, Store, Number, Answer) -> ok = ask(Config, {answer, Store, Number, Answer}).

tell_link(Config, Message) -> ask(Config, {tell_link, Message}).

ask(Config, Request) ->
    on(value(gateway, Config), fun() ->
        ?MODULE ! {self(), Request},
        receive {?MODULE, Answer} -> Answer end
    end).

start() ->
    ok = run(?MODULE, fun() -> serve(#{link => none, requests => []}) end),
    lists:foreach(fun(Name) -> ok = run(Name, fun() -> front(Name) end) end, ?FRONTS).

run(Name, Fun) ->
    Self = self(),
    Pid = spawn(fun() -> register(Name, self()), Self ! {self(), started}, Fun() end),
    receive {Pid, started} -> ok end.

front(Name) ->
    receive Message -> ?MODULE ! {Name, Message} end,
    front(Name).

serve(State) ->
    receive
        {Name, {'$gen_call', From, Request}} -> serve(called(Name, Request, From, State));
        {Name, _} when is_atom(Name) -> serve(State);
        {From, Request} -> From ! {?MODULE, asked(Request, State)}, serve(State)
    end.

called(esdb_gater_session, {attach, _, Link, _}, From, State) ->
    _ = Link ! {esdb_gater_registry, reset, 1, []},
    gen_server:reply(From, {ok, #{node => node(), gateways => [], channels => #{}}}),
    State#{link := Link};
called(esdb_gater_session, _, From, State) ->
    gen_server:reply(From, ok),
    State;
called(_, Request, From, #{requests := Requests} = State) ->
    {Kind, About} = {element(1, Request), element(2, Request)},
    _ = case {Kind, About} of
            {keep, _} -> gen_server:reply(From, {error, overloaded});
            {leave, _} -> gen_server:reply(From, {ok, 1, false});
            {_, free} -> gen_server:reply(From, ok);
            _ -> later
        end,
    State#{requests := Requests ++ [{About, Kind, From}]}.

asked({requests, About}, #{requests := Requests}) ->
    [Kind || {Other, Kind, _} <- Requests, Other =:= About];
asked({answer, Store, Number, Answer}, #{requests := Requests}) ->
    From = lists:nth(Number, [From || {Other, _, From} <- Requests, Other =:= Store]),
    gen_server:reply(From, Answer);
asked({tell_link, Message}, #{link := Link}) ->
    _ = Link ! Message,
    ok;
asked({cast, To, Request}, _State) ->
    gen_server:cast(To, Request).
