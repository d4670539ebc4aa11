%% @doc The documentation in the compiled application, as `h/1' of a real shell shows it.
-module(documentation_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_group/2,
         end_per_group/2]).
-export([the_shell_shows_a_function/1, every_public_function_is_documented/1]).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [every_public_function_is_documented | [{group, R} || R <- [otp25, otp27, otp29]]].

groups() -> [{Release, [the_shell_shows_a_function]} || Release <- [otp25, otp27, otp29]].

init_per_suite(Config) -> Config.

end_per_suite(_Config) -> ok.

init_per_group(Group, Config) -> gater_harness:on_release(Group, Config).

end_per_group(_Group, _Config) -> ok.

%% The modules as they were built here: the shell reads what stands in the files and loads none.
the_shell_shows_a_function(Config) ->
    {{Program, First}, Root} =
        case lists:keyfind(otp, 1, Config) of
            {otp, 25} -> {{os:find_executable("erl"), []}, ""};
            {otp, Otp} -> {ok, Dir} = gater_release:root(Otp), {gater_release:command(Otp), Dir}
        end,
    Ebin = filename:join("/tmp", gater_harness:unique("gater_documentation")),
    ok = filelib:ensure_dir(filename:join([Root ++ Ebin, "x"])),
    [{ok, _} = file:copy(Beam, filename:join(Root ++ Ebin, filename:basename(Beam)))
     || Beam <- filelib:wildcard(filename:join(ebin(), "*.beam"))],
    Port = open_port({spawn_executable, Program},
                     [{args, First ++ ["-noshell", "-pa", Ebin, "-eval",
                                       "c:h(esdb_gater_api), "
                                       "c:h(esdb_gater_api, register_worker, 2), halt()."]},
                      binary, exit_status, stderr_to_stdout]),
    Shown = shown(Port, <<>>),
    ok = file:del_dir_r(Root ++ Ebin),
    [?assertMatch({_, _}, binary:match(Shown, Text), Shown)
     || Text <- [<<"Workers of stores">>, <<"Registers a process as a worker of a store">>]].

every_public_function_is_documented(_Config) ->
    true = code:add_patha(ebin()),
    [begin
         {ok, {docs_v1, _, _, _, #{}, _, Functions}} = code:get_doc(Module),
         Undocumented = [{Module, Name, Arity}
                         || {{function, Name, Arity}, _, _, Doc, _} <- Functions,
                            Doc =:= none orelse Doc =:= #{}],
         ?assertEqual([], Undocumented)
     end || Module <- [esdb_gater_api, esdb_channel_server, esdb_pubsub_security, esdb_gater_retry,
                       esdb_gater_telemetry]].

shown(Port, Text) ->
    receive
        {Port, {data, More}} -> shown(Port, <<Text/binary, More/binary>>);
        {Port, {exit_status, _}} -> Text
    after 60000 -> error({never_ended, Text})
    end.

ebin() ->
    Root = case os:getenv("GATER_ROOT") of
               Given when is_list(Given), Given =/= "" -> Given;
               _ -> {ok, Dir} = file:get_cwd(), Dir
           end,
    filename:join([Root, "_build", "default", "lib", "erl_esdb_gater", "ebin"]).
