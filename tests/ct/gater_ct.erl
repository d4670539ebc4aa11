%% @doc Runs the suites of a directory in a node that is not distributed, and counts.
%%
%% `erl -noshell -pa EBIN -run gater_ct main EBIN LOGS [SUITE [CASE]...]' prints what failed and
%% what was skipped with the reason, then `N passed, N failed, N skipped', and ends with 0 if
%% nothing failed.
-module(gater_ct).

-export([main/1]).

%% Callbacks of a Common Test hook.
-export([init/2, post_end_per_testcase/5, on_tc_fail/4, on_tc_skip/4, terminate/1]).

%% @doc Runs the suites and halts.
-spec main([string()]) -> no_return().
main([Ebin, Logs | Selected]) ->
    ok = filelib:ensure_dir(filename:join(Logs, "x")),
    What = case Selected of
        [] -> [];
        [Suite] -> [{suite, list_to_atom(Suite)}];
        [Suite | Cases] -> [{suite, list_to_atom(Suite)}, {testcase, [list_to_atom(C) || C <- Cases]}]
    end,
    Result = ct:run_test([{dir, Ebin}, {logdir, Logs}, {auto_compile, false},
                          {ct_hooks, [?MODULE]} | What]),
    case Result of
        {Passed, Failed, {ByUser, ByConfiguration}} ->
            %% A suite that could not be set up has its cases skipped by Common Test: they failed.
            Bad = Failed + ByConfiguration,
            io:format("~b passed, ~b failed, ~b skipped~n", [Passed, Bad, ByUser]),
            halt(min(Bad, 1));
        Error ->
            io:format("the suites did not run: ~tp~n0 passed, 1 failed, 0 skipped~n", [Error]),
            halt(1)
    end.

%% @private
init(_Id, _Options) -> {ok, undefined}.

%% @private
post_end_per_testcase(Suite, Case, _Config, Return, State) ->
    case Return of
        %% Told by on_tc_skip.
        {skip, _} -> ok;
        {Bad, _} when Bad =:= error; Bad =:= failed -> ok;
        {'EXIT', _} -> ok;
        _ -> io:format(user, "ok      ~s:~s~n", [Suite, Case])
    end,
    {Return, State}.

%% @private
on_tc_fail(Suite, Case, Reason, State) ->
    io:format(user, "FAILED  ~s:~ts~n~ts~n", [Suite, name(Case), text(Reason)]),
    State.

%% @private
on_tc_skip(Suite, Case, {_, Reason}, State) ->
    io:format(user, "SKIPPED ~s:~ts: ~ts~n", [Suite, name(Case), text(Reason)]),
    State.

%% @private
terminate(_State) -> ok.

name({Case, Group}) -> io_lib:format("~s (~s)", [Case, Group]);
name(Case) -> atom_to_list(Case).

text(Reason) ->
    case io_lib:printable_unicode_list(Reason) of
        true -> Reason;
        %% Deep enough to see the cause, short enough for a terminal.
        false -> io_lib:format("~tP", [Reason, 60])
    end.
