%% @doc The steps of docs/MIGRATING.md, with the commands and the code that stand there.
-module(migrating_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([a_program_of_the_original_compiles_after_step_1/1,
         the_configuration_of_step_2_is_accepted_and_the_old_one_warned_of/1,
         nodes_change_one_by_one_and_back_while_the_cluster_works/1,
         signatures_verify_as_the_table_says/1]).

-define(STORE, my_store).
-define(TOPIC, <<"topic">>).
-define(EVENTS, esdb_channel_events).
-define(SECRET, <<"the secret of all nodes">>).

suite() -> [{timetrap, {minutes, 4}}].

all() ->
    [a_program_of_the_original_compiles_after_step_1,
     the_configuration_of_step_2_is_accepted_and_the_old_one_warned_of,
     nodes_change_one_by_one_and_back_while_the_cluster_works,
     signatures_verify_as_the_table_says].

init_per_testcase(_Case, Config) -> [{world, gater_harness:new()} | Config].

end_per_testcase(_Case, Config) -> gater_harness:stop(value(world, Config)).

%% The consumer of this repository, under the names of the original's last releases.
a_program_of_the_original_compiles_after_step_1(Config) ->
    [{erl_esdb_gater, {git, _, _}}] = proplists:get_value(deps, terms(dependency)),
    Project = filename:join(gater_harness:dir(value(world, Config)), "project"),
    Source = filename:join([root(), "tests", "consumers", "lineage", "src"]),
    [ok = filelib:ensure_dir(filename:join([Project, Dir, "x"]))
     || Dir <- ["src", "include", "test"]],
    [begin
         {ok, Text} = file:read_file(filename:join(Source, Name)),
         Old = binary:replace(Text, <<"erl_esdb_gater">>, <<"reckon_gater">>, [global]),
         %% A name that only begins alike has to stay.
         ok = file:write_file(filename:join([Project, "src", Name]),
                              [Old, "\n%% reckon_gater_pg\n"])
     end || Name <- filelib:wildcard("*", Source)],
    "" = os:cmd("cd " ++ Project ++ " && " ++ binary_to_list(block(rename))),
    [begin
         {ok, Text} = file:read_file(filename:join([Project, "src", Name])),
         ?assertNotEqual(nomatch, binary:match(Text, <<"reckon_gater_pg">>)),
         case filename:extension(Name) of
             ".erl" ->
                 {ok, _, _, []} = compile:file(filename:join([Project, "src", Name]),
                                               [binary, return]);
             _ ->
                 {ok, [{application, lineage, Keys}]} =
                     file:consult(filename:join([Project, "src", Name])),
                 ?assert(lists:member(erl_esdb_gater, proplists:get_value(applications, Keys)))
         end
     end || Name <- filelib:wildcard("*", Source)].

the_configuration_of_step_2_is_accepted_and_the_old_one_warned_of(_Config) ->
    [{reckon_gater, Before}] = terms('config-before'),
    {ok, _, Warnings} = esdb_gater_config:check(Before),
    ?assertNotEqual([], Warnings),
    [begin
         [{erl_esdb_gater, Env}] = terms(Step),
         ?assertMatch({ok, _, []}, esdb_gater_config:check(Env)),
         Retries = proplists:get_value(max_retries, proplists:get_value(retry, Before)),
         ?assertEqual(Retries + 1,
                      proplists:get_value(max_attempts, proplists:get_value(retry, Env)))
     end || Step <- ['config-after', 'config-last']].

%% Three nodes, a caller and a publisher on each; after each change all works as before.
nodes_change_one_by_one_and_back_while_the_cluster_works(Config) ->
    Changes = [[old, old, old], [new, old, old], [new, new, old], [new, new, new],
               [last, new, new], [last, last, new], [last, last, last],
               [new, last, last], [new, new, last], [new, new, new],
               [new, new, old], [new, old, old], [old, old, old]],
    Start = [start(Config, Kind) || Kind <- hd(Changes)],
    gater_original:connect([Beam || {_, Beam, _, _} <- Start]),
    works(Start),
    _ = lists:foldl(fun(Kinds, Members) ->
                        Next = [changed(Config, Member, Kind)
                                || {Member, Kind} <- lists:zip(Members, Kinds)],
                        gater_original:connect([Beam || {_, Beam, _, _} <- Next]),
                        works(Next),
                        Next
                    end, Start, tl(Changes)),
    ok.

changed(_Config, {Kind, _, _, _} = Member, Kind) -> Member;
changed(Config, {_, Beam, _, _}, Kind) ->
    gater_harness:kill_node(value(world, Config), Beam),
    start(Config, Kind).

%% A node with a worker and a subscriber.
start(Config, old) ->
    Beam = gater_original:node(value(world, Config), #{modules => [?MODULE]}),
    {old, Beam, gater_original:worker(Beam, ?STORE), gater_original:subscriber(Beam, ?TOPIC)};
start(Config, Kind) ->
    World = value(world, Config),
    Beam = gater_shim:node(World, [?MODULE, gater_original]),
    Dir = gater_harness:dir(World),
    on(Beam, fun() -> true = os:putenv("TMPDIR", Dir), ok end),
    [{erl_esdb_gater, Env}] = terms(case Kind of new -> 'config-after'; last -> 'config-last' end),
    ok = gater_shim:start(Beam, gater_shim:embedded() ++ Env),
    [Worker] = gater_shim:workers(Beam, ?STORE, 1),
    {_, Pid} = Agent = gater_harness:agent(Beam),
    ok = on(Beam, fun() -> esdb_channel_server:subscribe(?EVENTS, ?TOPIC, Pid) end),
    {Kind, Beam, Worker, Agent}.

works(Members) ->
    [begin
         Check = check(Kind),
         until(fun() -> on(Beam, fun() -> holds(Check) end) end)
     end || {Kind, Beam, _, _} <- Members],
    Workers = lists:sort([Worker || {_, _, Worker, _} <- Members]),
    [until(fun() -> Workers =:= lists:usort([call(Kind, Beam) || _ <- lists:seq(1, 12)]) end)
     || {Kind, Beam, _, _} <- Members],
    %% Messages arrive once, also after those of all others have come.
    Before = [length(gater_original:received(Agent)) || {_, _, _, Agent} <- Members],
    until(fun() -> bridged(Members) end),
    [publish(Kind, Beam, {Beam, I}) || I <- [1, 2, 3], {Kind, Beam, _, _} <- Members],
    [begin
         New = fun() -> lists:nthtail(Skip, gater_original:received(Agent)) end,
         until(fun() -> length(New()) >= 9 end),
         ?assertEqual(lists:sort([{Beam, I} || I <- [1, 2, 3], {_, Beam, _, _} <- Members]),
                      lists:sort(New()))
     end || {{_, _, _, Agent}, Skip} <- lists:zip(Members, Before)].

check(old) -> block('check-old');
check(_) -> block('check-new').

holds(Code) ->
    {ok, Tokens, _} = erl_scan:string(binary_to_list(Code)),
    {ok, Expressions} = erl_parse:parse_exprs(Tokens),
    try erl_eval:exprs(Expressions, []) of
        {value, true, _} -> true;
        {value, false, _} -> false
    catch
        error:{badmatch, _} -> false
    end.

call(old, Beam) ->
    on(Beam, fun() ->
        Members = pg:get_members(reckon_gater_pg, esdb_gater_workers_my_store),
        Worker = lists:nth(rand:uniform(length(Members)), Members),
        {ok, {Worker, hello}} = gen_server:call(Worker, {echo, hello}),
        Worker
    end);
call(_, Beam) ->
    on(Beam, fun() ->
        {ok, {Worker, hello}} =
            esdb_gater_api:execute(?STORE, fun(W) -> gen_server:call(W, {echo, hello}) end),
        Worker
    end).

%% Every node that looks into the scope sees each that takes part in it.
bridged(Members) ->
    Parts = [Beam || {Kind, Beam, _, _} <- Members, Kind =/= last],
    Nodes = lists:sort([Node || #{node := Node} <- Parts]),
    Seen = fun(Beam) -> [node(Pid) || Pid <- gater_original:subscribers(Beam, ?TOPIC)] end,
    lists:all(fun(Beam) -> lists:sort(Seen(Beam)) =:= Nodes end, Parts).

publish(old, Beam, Message) -> gater_original:publish(Beam, ?EVENTS, ?TOPIC, Message);
publish(_, Beam, Message) ->
    ok = on(Beam, fun() -> esdb_channel_server:publish(?EVENTS, ?TOPIC, Message) end).

signatures_verify_as_the_table_says(Config) ->
    case gater_release:root(27) of
        {ok, _} -> signatures(Config);
        Skip -> Skip
    end.

signatures(Config) ->
    World = value(world, Config),
    Old25 = gater_original:node(World, #{otp => 25, modules => [?MODULE]}),
    Old27 = gater_original:node(World, #{otp => 27, modules => [?MODULE]}),
    New = gater_shim:node(World, [?MODULE]),
    Message = #{type => alert, level => critical, host => <<"h1">>},
    Signed = [{old25, on(Old25, fun() -> gater_original:sign(Message, ?SECRET) end)},
              {old27, on(Old27, fun() -> gater_original:sign(Message, ?SECRET) end)},
              {new, on(New, fun() -> esdb_pubsub_security:sign(Message, ?SECRET) end)}],
    Taken = fun({By, M}) ->
                {By, on(Old25, fun() -> gater_original:verify(M, ?SECRET) end),
                 on(Old27, fun() -> gater_original:verify(M, ?SECRET) end),
                 on(New, fun() -> esdb_pubsub_security:verify(M, ?SECRET) =:= ok end)}
            end,
    ?assertEqual([{old25, true, false, true}, {old27, false, true, true}, {new, false, true, true}],
                 lists:map(Taken, Signed)).

%%% The document

%% The code after the mark of a step.
block(Step) ->
    {ok, Text} = file:read_file(filename:join([root(), "docs", "MIGRATING.md"])),
    Pattern = ["<!-- step: ", atom_to_list(Step), " -->\n(?:<!--[^\n]*-->\n)?```\\w+\n(.*?)```"],
    {match, [Code]} = re:run(Text, Pattern, [dotall, {capture, all_but_first, binary}]),
    Code.

terms(Step) ->
    {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(block(Step))),
    {ok, Term} = erl_parse:parse_term(Tokens),
    case Term of
        {_, _} -> [Term];
        _ -> Term
    end.

root() ->
    case os:getenv("GATER_ROOT") of
        Root when is_list(Root), Root =/= "" -> Root;
        _ -> {ok, Dir} = file:get_cwd(), Dir
    end.

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

on(Beam, Fun) -> gater_harness:on(Beam, Fun).

until(Condition) -> gater_harness:until(Condition).
