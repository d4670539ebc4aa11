%%% @private
%%% @doc The names of processes that outlive their supervisor.
%%%
%%% A supervisor that is killed does not end its children: they learn of it by its exit signal and
%%% take their time, such as the one that has the gateway program drain. Until then their names
%%% are taken, and the next supervisor must not start others beside them.
-module(esdb_gater_names).

-export([await_free/1]).

-define(PATIENCE_MS, 12000).            % a drain takes 10 s at most

%% @doc Returns when no process of a supervisor before the calling one has any of these names.
%% Who does not end in time is killed.
-spec await_free([atom()]) -> ok.
await_free(Names) ->
    Deadline = erlang:monotonic_time(millisecond) + ?PATIENCE_MS,
    Monitors = [{Pid, erlang:monitor(process, Pid)} || Pid <- lists:filtermap(fun orphan/1, Names)],
    lists:foreach(fun(Monitor) -> await_end(Monitor, Deadline) end, Monitors).

%% A name may as well be that of a process that is none of ours.
orphan(Name) ->
    case whereis(Name) of
        undefined ->
            false;
        Pid ->
            case process_info(Pid, dictionary) of
                {dictionary, Entries} -> is_ours(Entries) andalso {true, Pid};
                undefined -> {true, Pid}
            end
    end.

is_ours(Entries) ->
    case proplists:get_value('$initial_call', Entries) of
        {Module, _, _} -> lists:prefix("esdb_", atom_to_list(Module));
        _ -> false
    end.

await_end({Pid, Monitor}, Deadline) ->
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    after max(0, Deadline - erlang:monotonic_time(millisecond)) ->
        true = exit(Pid, kill),
        receive {'DOWN', Monitor, process, _, _} -> ok end
    end.
