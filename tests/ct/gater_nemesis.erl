%% @doc A nemesis: at random it kills, stops, restarts and cuts off gateways and nodes while
%% clients are at work, heals everything, and judges what the clients saw.
%%
%% The plan follows from the seed alone, so a run is repeated by its seed. What the machine makes
%% of it, when a message is on its way just then, is chance.
-module(gater_nemesis).

-export([plan/2, modules/0, start_load/2, run/5, round/3, judge/3]).
-export_type([fault/0, plan/0, verdict/0, demands/0]).

%% Gateways and nodes by their place in the cluster. The leader is who leads when the round begins.
-type target() :: {gateway, pos_integer()} | {beam, pos_integer()} | leader.
-type what() ::
    %% kill -9, and started again afterwards.
    {kill, target()}
    %% kill -9 of all gateways at once: the power is gone.
    | power
    %% Told to stop, and started again afterwards.
    | {restart, target()}
    %% SIGSTOP, and SIGCONT afterwards.
    | {pause, target()}
    %% Nothing to it or from it, in silence.
    | {isolate, target()}
    %% The same, and its connections are reset, so that everybody knows.
    | {banish, target()}
    %% Nothing between the gateways and nodes with these places and the others.
    | {split, [pos_integer()], [pos_integer()]}
    %% What the first sends does not arrive at the second.
    | {deafen, target(), target()}
    %% The connections between the two are reset, now and at the end.
    | {sever, target(), target()}.
%% Both in milliseconds, from the beginning of the round.
-type fault() :: #{what := what(), at := non_neg_integer(), until := pos_integer()}.
-type plan() :: [[fault(), ...]].
-type verdict() :: #{violations := [term()], counts := map(), settle_ms := non_neg_integer()}.

%% What a cluster is judged by: the longest that all may take to be well again once nothing is
%% wrong any more, and whether a publication at one gateway is to reach subscribers at all.
-type demands() :: #{well_ms := pos_integer(), across := boolean()}.

%% Between two looks, and between two probes.
-define(LOOK_MS, 100).
-define(STORES, [red_store, green_store]).

%% @doc What will be done, round by round.
-spec plan(term(), non_neg_integer()) -> plan().
plan(Seed, Rounds) ->
    {Plan, _} = lists:mapfoldl(fun(_, Random) -> faults(Random) end,
                               rand:seed_s(exsss, erlang:phash2(Seed)), lists:seq(1, Rounds)),
    Plan.

%% @doc What the nodes must have loaded.
-spec modules() -> [module()].
modules() -> [?MODULE, gater_nemesis_client | gater_nemesis_attacker:modules()].

%% @doc Starts the load on all nodes.
-spec start_load(gater_cluster:cluster(), term()) -> ok.
start_load(Cluster, Seed) ->
    lists:foreach(fun(Beam) -> load(Cluster, Beam, Seed) end, gater_cluster:beams(Cluster)).

%% @doc Carries out a plan and judges after each round, and stops at the first that is not well.
%% `Tell' is given the number, the faults and the verdict of each.
-spec run(gater_cluster:cluster(), term(), plan(), demands(), fun((pos_integer(), [fault()], verdict()) -> term())) ->
    {ok, Counts :: map()} | {failed, pos_integer(), [fault()], verdict()}.
run(Cluster, Seed, Plan, Demands, Tell) ->
    start_load(Cluster, Seed),
    run(Cluster, Seed, lists:enumerate(Plan), Demands, Tell, #{}, #{}).

%% `Counts' are the last ones of all nodes that still are what they were.
run(_, _, [], _, _, _, Counts) ->
    {ok, Counts};
run(Cluster, Seed, [{Number, Faults} | Rest], Demands, Tell, Seen, _) ->
    round(Cluster, {Seed, Number}, Faults),
    {Verdict, Next} = judge(Cluster, Seen, Demands),
    Tell(Number, Faults, Verdict),
    case Verdict of
        #{violations := [], counts := Counts} -> run(Cluster, Seed, Rest, Demands, Tell, Next, Counts);
        _ -> {failed, Number, Faults, Verdict}
    end.

%%% The plan

faults(Random0) ->
    {Count, Random1} = weighted([{3, 1}, {2, 2}, {1, 3}], Random0),
    {Faults, Random} = lists:mapfoldl(fun(_, R) -> fault(R) end, Random1, lists:seq(1, Count)),
    {lists:sort(fun(#{at := A}, #{at := B}) -> A =< B end, Faults), Random}.

fault(Random0) ->
    {What, Random1} = what(Random0),
    {At, Random2} = between(100, 700, Random1),
    %% Some outlast every timer of an election.
    {{Least, Most}, Random3} = weighted([{4, {200, 2200}}, {1, {2500, 4500}}], Random2),
    {Hold, Random} = between(Least, Most, Random3),
    {#{what => What, at => At, until => At + Hold}, Random}.

what(Random0) ->
    {Kind, Random1} = weighted([{4, kill}, {1, power}, {2, restart}, {4, pause}, {3, isolate}, {2, banish},
                                {3, split}, {2, deafen}, {2, sever}], Random0),
    case Kind of
        power ->
            {power, Random1};
        restart ->
            {Target, Random} = gateway(Random1),
            {{restart, Target}, Random};
        split ->
            {Alone, Random2} = between(1, 3, Random1),
            {Sides, Random} = lists:mapfoldl(fun(_, R) -> between(0, 1, R) end, Random2, [1, 2, 3]),
            {{split, [Alone], [N || {N, 1} <- lists:enumerate(Sides)]}, Random};
        _ when Kind =:= deafen; Kind =:= sever ->
            {Speaker, Random2} = between(1, 3, Random1),
            {Other, Random3} = between(1, 2, Random2),
            {Kinds, Random} = weighted([{2, gateway}, {1, beam}], Random3),
            Listener = case Kinds of gateway -> (Speaker + Other - 1) rem 3 + 1; beam -> Other end,
            {{Kind, {gateway, Speaker}, {Kinds, Listener}}, Random};
        _ ->
            {Target, Random} = target(Random1),
            {{Kind, Target}, Random}
    end.

target(Random0) ->
    case weighted([{3, gateway}, {2, beam}], Random0) of
        {gateway, Random} -> gateway(Random);
        {beam, Random1} -> {N, Random} = between(1, 3, Random1), {{beam, N}, Random}
    end.

gateway(Random0) ->
    case weighted([{2, leader}, {3, any}], Random0) of
        {leader, Random} -> {leader, Random};
        {any, Random1} -> {N, Random} = between(1, 3, Random1), {{gateway, N}, Random}
    end.

weighted(Choices, Random0) ->
    {N, Random} = rand:uniform_s(lists:sum([Weight || {Weight, _} <- Choices]), Random0),
    {weigh(N, Choices), Random}.

weigh(N, [{Weight, Choice} | _]) when N =< Weight -> Choice;
weigh(N, [{Weight, _} | Rest]) -> weigh(N - Weight, Rest).

between(Low, High, Random0) ->
    {N, Random} = rand:uniform_s(High - Low + 1, Random0),
    {Low + N - 1, Random}.

%%% Carrying it out

%% @doc Carries out one round; afterwards everybody runs and nothing is cut. A fault whose target
%% suffers from another one already is left out.
-spec round(gater_cluster:cluster(), term(), [fault()]) -> ok.
round(Cluster, Seed, Faults) ->
    Leader = gater_cluster:leader(Cluster),
    Named = [Fault#{what := named(What, Leader, Cluster)} || Fault = #{what := What} <- Faults],
    Events = lists:sort([{At, N, strike} || {N, #{at := At}} <- lists:enumerate(Named)] ++
                        [{Until, N, relieve} || {N, #{until := Until}} <- lists:enumerate(Named)]),
    Began = erlang:monotonic_time(millisecond),
    Struck = lists:foldl(fun({When, N, Event}, Active) ->
        wait_until(Began + When),
        What = maps:get(what, lists:nth(N, Named)),
        case Event of
            strike -> strike(Cluster, N, What, Active);
            relieve -> relieve(Cluster, Seed, N, Active)
        end
    end, #{}, Events),
    #{} = Struck,
    gater_cluster:mend(Cluster).

wait_until(When) ->
    receive after max(0, When - erlang:monotonic_time(millisecond)) -> ok end.

%% `Active' has what was done of each fault that lasts.
strike(Cluster, N, What, Active) ->
    Down = [Member || {Members, _} <- maps:values(Active), Member <- Members],
    case What of
        power ->
            Victims = gater_cluster:gateways(Cluster) -- Down,
            lists:foreach(fun(Victim) -> gater_cluster:kill(Cluster, Victim) end, Victims),
            Active#{N => {Victims, up}};
        {Kind, Victim} when Kind =:= kill; Kind =:= restart; Kind =:= pause ->
            case lists:member(Victim, Down) of
                true -> Active;
                false ->
                    Undo = hurt(Cluster, Kind, Victim),
                    Active#{N => {[Victim], Undo}}
            end;
        {isolate, Victim} ->
            gater_cluster:isolate(Cluster, Victim),
            Active#{N => {[], mend}};
        {banish, Victim} ->
            gater_cluster:isolate(Cluster, Victim),
            Others = (gater_cluster:gateways(Cluster) ++ gater_cluster:beams(Cluster)) -- [Victim],
            gater_cluster:sever(Cluster, [Victim], Others),
            Active#{N => {[], mend}};
        {split, Some, Others} ->
            gater_cluster:split(Cluster, Some, Others),
            Active#{N => {[], mend}};
        {deafen, Speaker, Listener} ->
            gater_cluster:cut(Cluster, [Speaker], [Listener]),
            Active#{N => {[], mend}};
        {sever, One, Other} ->
            gater_cluster:sever(Cluster, [One], [Other]),
            Active#{N => {[], {sever, One, Other}}}
    end.

hurt(Cluster, kill, Victim) -> gater_cluster:kill(Cluster, Victim), up;
hurt(Cluster, pause, Victim) -> gater_cluster:pause(Cluster, Victim), resume;
hurt(Cluster, restart, Victim) -> 0 = gater_cluster:terminate(Cluster, Victim), up.

relieve(Cluster, Seed, N, Active) ->
    case Active of
        #{N := {Victims, up}} ->
            lists:foreach(fun(Victim) ->
                gater_cluster:up(Cluster, Victim),
                case lists:member(Victim, gater_cluster:beams(Cluster)) of
                    true -> load(Cluster, Victim, Seed);
                    false -> ok
                end
            end, Victims);
        #{N := {Victims, resume}} ->
            lists:foreach(fun(Victim) -> gater_cluster:resume(Cluster, Victim) end, Victims);
        #{N := {[], {sever, One, Other}}} ->
            gater_cluster:sever(Cluster, [Other], [One]);
        #{N := {[], mend}} ->
            %% Of two cuts the first that ends takes the other along.
            gater_cluster:mend(Cluster);
        _ ->
            ok
    end,
    maps:remove(N, Active).

load(Cluster, Beam, Seed) ->
    Gateways = gater_cluster:gateways(Cluster),
    gater_cluster:on(Cluster, Beam, fun() ->
        gater_nemesis_client:start(#{gateways => Gateways, seed => Seed})
    end).

named(What, Leader, Cluster) ->
    Gateways = gater_cluster:gateways(Cluster),
    Beams = gater_cluster:beams(Cluster),
    Name = fun(leader) when Leader =/= undefined -> Leader;
              (leader) -> hd(Gateways);
              ({gateway, N}) -> place(N, Gateways);
              ({beam, N}) -> place(N, Beams)
           end,
    case What of
        power -> power;
        {split, SomeGateways, SomeBeams} ->
            Some = lists:usort([place(N, Gateways) || N <- SomeGateways] ++ [place(N, Beams) || N <- SomeBeams]),
            {split, Some, (Gateways ++ Beams) -- Some};
        {Kind, One, Other} -> {Kind, Name(One), Name(Other)};
        {Kind, Target} -> {Kind, Name(Target)}
    end.

%% Clusters may be smaller than the plan.
place(N, Members) -> lists:nth((N - 1) rem length(Members) + 1, Members).

%%% Judging

%% @doc Pauses the load, waits until all is well or has been wrong for too long, and judges;
%% then the load goes on. Takes and gives what subscribers had seen.
-spec judge(gater_cluster:cluster(), gater_history:seen(), demands()) ->
    {verdict(), gater_history:seen()}.
judge(Cluster, Seen0, Demands = #{well_ms := WellMs}) ->
    Began = erlang:monotonic_time(millisecond),
    everywhere(Cluster, fun gater_nemesis_client:pause/0),
    Unwell = well(Cluster, Demands, make_ref(), Began + WellMs, undefined),
    SettleMs = erlang:monotonic_time(millisecond) - Began,
    Reports = everywhere(Cluster, fun gater_nemesis_client:report/0),
    {Misdelivered, Seen} =
        gater_history:deliveries([D || #{deliveries := Ds} <- Reports, D <- Ds], Seen0),
    Crashes = [{client_crashed, Crash} || #{crashes := Cs} <- Reports, Crash <- Cs],
    everywhere(Cluster, fun gater_nemesis_client:resume/0),
    Present = maps:from_keys([Pid || #{subscribers := Subscribers} <- Reports, {Pid, _, _} <- Subscribers], here),
    {#{violations => Unwell ++ Misdelivered ++ Crashes,
       settle_ms => SettleMs,
       counts => lists:foldl(fun(#{counts := Counts}, Sum) ->
           maps:merge_with(fun(_, A, B) -> A + B end, Counts, Sum) end, #{}, Reports)},
     %% Nobody sends to those that are gone.
     maps:filter(fun({Subscriber, _, _, _}, _) -> is_map_key(Subscriber, Present) end, Seen)}.

%% The violations that are left once there are none, or no time.
well(Cluster, Demands, Ref, Deadline, Probed) ->
    Now = erlang:monotonic_time(millisecond),
    %% Probes fill the queues of whoever is not well: not with every look.
    Probe = case Probed of
        {At, _} when Now - At < 10 * ?LOOK_MS -> Probed;
        _ -> {Now, probe(Cluster, Ref)}
    end,
    case unwell(Cluster, Demands, Ref) of
        [] -> [];
        Violations when Now > Deadline -> Violations;
        _ -> wait_until(Now + ?LOOK_MS), well(Cluster, Demands, Ref, Deadline, Probe)
    end.

unwell(Cluster, Demands, Ref) ->
    Asker = hd(gater_cluster:beams(Cluster)),
    Answers = [{Gateway, Store, gater_cluster:call(Cluster, Asker, {esdb_gater_worker_registry, Gateway},
                                                   {get_workers, Store}, 3000)}
               || Gateway <- gater_cluster:gateways(Cluster), Store <- ?STORES],
    Silent = [{no_view, Gateway, Store, Answer}
              || {Gateway, Store, Answer} <- Answers, not is_view(Answer)],
    Views = [{Gateway, Store, Workers} || {Gateway, Store, {ok, Workers}} <- Answers],
    Reports = everywhere(Cluster, fun() -> gater_nemesis_client:workers() end),
    Silent ++ gater_history:workers(lists:append(Reports), Views) ++ unreached(Cluster, Demands, Ref)
        ++ [{not_settled, statuses(Cluster)} || not settled(Cluster)].

is_view({ok, Workers}) -> is_list(Workers);
is_view(_) -> false.

settled(Cluster) ->
    case gater_cluster:gateways(Cluster) of
        [_] -> true;
        _ -> gater_cluster:settled(Cluster)
    end.

statuses(Cluster) ->
    [{Gateway, gater_cluster:status(Cluster, Gateway)} || Gateway <- gater_cluster:gateways(Cluster)].

%% A message published now at any gateway reaches every subscriber, wherever it is subscribed.
probe(Cluster, Ref) ->
    Gateways = gater_cluster:gateways(Cluster),
    gater_cluster:on(Cluster, fun() -> gater_nemesis_client:probe(Ref, Gateways) end).

unreached(Cluster, #{across := Across}, Ref) ->
    Gateways = gater_cluster:gateways(Cluster),
    [{not_reached, Subscriber, through, Gateway}
     || Probed <- everywhere(Cluster, fun() -> gater_nemesis_client:probed(Ref) end),
        %% Some stay with a gateway that is of the cluster no more.
        {Subscriber, At, Reached} <- Probed, lists:member(At, Gateways),
        Gateway <- Gateways, Across orelse Gateway =:= At, not lists:keymember(Gateway, 1, Reached)].

everywhere(Cluster, Fun) ->
    [gater_cluster:on(Cluster, Beam, Fun) || Beam <- gater_cluster:beams(Cluster)].
