%% @doc The second half of the story: the same gateway through the shim `erl_esdb_gater'.
-module(gater_shim_demo).

-include_lib("stdlib/include/assert.hrl").

-export([story/4]).

%% @doc Two nodes that run the shim and share one gateway; `Say' prints a line.
-spec story(gater_harness:world(), gater_harness:gateway(), binary(), #{atom() => fun()}) -> ok.
story(World, #{node := Gater}, Secret, #{chapter := Chapter, say := Say}) ->
    Chapter("The same through the shim: two nodes with the application erl_esdb_gater"),
    Ebin = filename:dirname(code:which(esdb_gater_api)),
    Nodes = [Carla, Dan] = [gater_harness:node(World, #{name => gater_harness:unique(Name),
        modules => [?MODULE], args => ["-pa", Ebin]}) || Name <- ["carla", "dan"]],
    [begin
         {ok, Started} = gater_harness:on(Beam, fun() ->
             ok = application:load(erl_esdb_gater),
             ok = application:set_env(erl_esdb_gater, gateways, [Gater]),
             ok = application:set_env(erl_esdb_gater, security, [{hmac_secret, Secret}]),
             application:ensure_all_started(erl_esdb_gater)
         end),
         Say("~s: application:ensure_all_started(erl_esdb_gater) -> {ok, ~0tp}", [Node, Started])
     end || Beam = #{node := Node} <- Nodes],
    Workers = [begin
        Pid = worker(Beam),
        ok = gater_harness:on(Beam, fun() -> esdb_gater_api:register_worker(billing, Pid) end),
        Say("~s: esdb_gater_api:register_worker(billing, ~p) -> ok", [Node, Pid]),
        Pid
    end || Beam = #{node := Node} <- Nodes],
    Both = {ok, [{node(Pid), Pid} || Pid <- Workers]},
    gater_harness:until(fun() ->
        gater_harness:on(Carla, fun() -> esdb_gater_api:get_workers(billing) end) =:= Both end),

    Chapter("execute goes round the workers of both nodes"),
    Answers = gater_harness:on(Carla, fun() ->
        [esdb_gater_api:execute(billing, fun(W) -> gen_server:call(W, {invoice, N}) end)
         || N <- lists:seq(1, 10)] end),
    PerNode = [{Node, length([1 || {ok, {invoiced, _, N}} <- Answers, N =:= Node])}
               || #{node := Node} <- Nodes],
    Say("10 calls of execute from carla: ~0tp", [PerNode]),
    ?assertEqual([5, 5], [Count || {_, Count} <- PerNode]),

    Chapter("A worker dies half-way and the call succeeds all the same"),
    [_, Second] = Workers,
    {Result, Tried} = gater_harness:on(Carla, fun() ->
        Self = self(),
        Attempt = fun(Worker) ->
            Self ! {tried, Worker},
            %% It dies while it works for us.
            _ = Worker =:= Second andalso gen_server:cast(Worker, die_at_the_next_call),
            gen_server:call(Worker, {invoice, 11})
        end,
        %% At most two calls, and it is the doomed one's turn in one of them.
        All = [esdb_gater_api:execute(billing, Attempt) || _ <- [1, 2]],
        {All, drain()}
    end),
    #{node := OnCarla} = Carla,
    ?assert(lists:member(Second, Tried)),
    ?assertEqual([{ok, {invoiced, 11, OnCarla}}], lists:usort(Result)),
    Say("tried in turn ~0tp; ~p died under its call; results ~0tp", [Tried, Second, Result]),
    Alone = {ok, [{OnCarla, hd(Workers)}]},
    [gater_harness:until(fun() ->
         gater_harness:on(Beam, fun() -> esdb_gater_api:get_workers(billing) end) =:= Alone end)
     || Beam <- Nodes],
    Say("both nodes now find ~0tp", [Alone]),

    Chapter("Subscribing and signing through the shim"),
    Subscriber = {_, Pid} = gater_harness:agent(Dan),
    Signed = gater_harness:on(Carla, fun() -> esdb_pubsub_security:sign(#{type => alert}) end),
    ok = gater_harness:on(Dan, fun() ->
        esdb_channel_server:subscribe(esdb_channel_alerts, <<"smoke">>, Pid) end),
    ok = gater_harness:on(Carla, fun() ->
        esdb_channel_server:publish(esdb_channel_alerts, <<"smoke">>, Signed) end),
    gater_harness:until(fun() -> gater_harness:messages(Subscriber) =/= [] end),
    [{channel_message, esdb_channel_alerts, <<"smoke">>, Signed}] = gater_harness:messages(Subscriber),
    ok = gater_harness:on(Dan, fun() -> esdb_pubsub_security:verify(Signed) end),
    Say("carla signs and publishes ~0tp", [Signed]),
    Say("dan receives it, and esdb_pubsub_security:verify/1 there -> ok", []),
    ?assertEqual({error, invalid_signature}, gater_harness:on(Dan, fun() ->
        esdb_pubsub_security:verify(Signed#{type => all_clear}) end)),
    Say("changed, it does not verify: {error, invalid_signature}", []).

drain() -> receive {tried, Worker} -> [Worker | drain()] after 0 -> [] end.

%% A process that answers `gen_server:call' until it is told to die at the next one.
worker(Beam) ->
    gater_harness:on(Beam, fun() ->
        spawn(fun Loop() ->
            receive
                {'$gen_cast', die_at_the_next_call} ->
                    receive {'$gen_call', _, _} -> exit(out_of_order) end;
                {'$gen_call', From, {invoice, N}} ->
                    gen_server:reply(From, {ok, {invoiced, N, node()}}),
                    Loop()
            end
        end)
    end).
