%% @doc The documentation in the compiled application, as `h/1' of a real shell shows it.
-module(documentation_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_group/2,
         end_per_group/2]).
-export([the_shell_shows_a_function/1, a_release_documents_what_it_compiles/1,
         every_public_function_is_documented/1]).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [every_public_function_is_documented | [{group, R} || R <- [otp25, otp27, otp29]]].

groups() ->
    [{Release, [the_shell_shows_a_function, a_release_documents_what_it_compiles]}
     || Release <- [otp25, otp27, otp29]].

init_per_suite(Config) -> Config.

end_per_suite(_Config) -> ok.

init_per_group(Group, Config) -> gater_harness:on_release(Group, Config).

end_per_group(_Group, _Config) -> ok.

%% The modules as they were built here: the shell reads what stands in the files and loads none.
the_shell_shows_a_function(Config) ->
    {Root, _} = system(Config),
    Folder = folder(Root),
    [{ok, _} = file:copy(Beam, filename:join(Root ++ Folder, filename:basename(Beam)))
     || Beam <- filelib:wildcard(filename:join(ebin(), "*.beam"))],
    Shown = shell(Config, Folder),
    ok = file:del_dir_r(Root ++ Folder),
    is_shown(Shown).

%% As in a project that is compiled with that release.
a_release_documents_what_it_compiles(Config) ->
    {Root, Enter} = system(Config),
    Folder = folder(Root),
    [begin
         To = filename:join(Root ++ Folder, File),
         ok = filelib:ensure_dir(To),
         {ok, _} = file:copy(filename:join(project(), File), To)
     end || Pattern <- ["erlang/src/*.[eh]rl", "erlang/include/*.hrl", "scripts/doc-chunks*"],
            File <- filelib:wildcard(Pattern, project())],
    ok = file:make_dir(filename:join(Root ++ Folder, "ebin")),
    Said = os:cmd(Enter ++ "sh -c 'cd " ++ Folder ++ " && erlc +debug_info -I erlang/include -o ebin"
                  " erlang/src/*.erl && REBAR_BARE_COMPILER_OUTPUT_DIR=" ++ Folder ++
                  " sh scripts/doc-chunks' 2>&1 && echo documented"),
    Shown = shell(Config, filename:join(Folder, "ebin")),
    ok = file:del_dir_r(Root ++ Folder),
    ?assert(lists:suffix("documented\n", Said), Said),
    case string:find(Said, "edoc is not installed") of
        nomatch -> is_shown(Shown);
        _ -> {skip, "this release has no edoc here: scripts/otp says why"}
    end.

is_shown(Shown) ->
    [?assertMatch({_, _}, binary:match(Shown, Text), Shown)
     || Text <- [<<"Workers of stores">>, <<"Registers a process as a worker of a store">>]].

%% The root of the system that a release runs in, and what runs a command there.
system(Config) ->
    case lists:keyfind(otp, 1, Config) of
        {otp, 25} -> {"", ""};
        {otp, Otp} -> {ok, Root} = gater_release:root(Otp), {Root, "chroot " ++ Root ++ " "}
    end.

folder(Root) ->
    Folder = filename:join("/tmp", gater_harness:unique("gater_documentation")),
    ok = filelib:ensure_dir(filename:join([Root ++ Folder, "x"])),
    Folder.

%% What the shell of a release shows of the modules in a folder.
shell(Config, Ebin) ->
    {Program, First} = case lists:keyfind(otp, 1, Config) of
                           {otp, 25} -> {os:find_executable("erl"), []};
                           {otp, Otp} -> gater_release:command(Otp)
                       end,
    Port = open_port({spawn_executable, Program},
                     [{args, First ++ ["-noshell", "-pa", Ebin, "-eval",
                                       "c:h(esdb_gater_api), "
                                       "c:h(esdb_gater_api, register_worker, 2), halt()."]},
                      binary, exit_status, stderr_to_stdout]),
    shown(Port, <<>>).

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

project() ->
    case os:getenv("GATER_ROOT") of
        Given when is_list(Given), Given =/= "" -> Given;
        _ -> {ok, Dir} = file:get_cwd(), Dir
    end.

ebin() -> filename:join([project(), "_build", "default", "lib", "erl_esdb_gater", "ebin"]).
