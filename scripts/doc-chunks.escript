#!/usr/bin/env escript
%%! -noinput
%%% Puts the documentation of the public modules into their compiled form, where `h(Module)' of the
%%% shell and editors look for it. Run by scripts/doc-chunks; where OTP has no edoc it says so.
%%%
%%%   escript scripts/doc-chunks.escript EBIN
%%%
-mode(compile).

main([Ebin]) ->
    Erlang = filename:join(filename:dirname(filename:dirname(filename:absname(escript:script_name()))),
                           "erlang"),
    Sources = [Source || Source <- filelib:wildcard(filename:join([Erlang, "src", "*.erl"])),
                         is_public(Source), lacks_docs(beam(Ebin, Source))],
    case {Sources, code:which(edoc_layout_chunks)} of
        {[], _} ->
            ok;
        {_, non_existing} ->
            io:format(standard_error, "erl_esdb_gater: OTP's edoc is not installed; "
                                      "h(esdb_gater_api) will show no documentation.~n", []);
        _ ->
            document(Sources, Ebin, Erlang)
    end;
main(_) ->
    io:format(standard_error, "usage: doc-chunks.escript EBIN~n", []),
    halt(64).

%% A module that is not for users says so at its top.
is_public(Source) ->
    {ok, File} = file:open(Source, [read]),
    First = file:read_line(File),
    ok = file:close(File),
    First =/= {ok, "%%% @private\n"}.

beam(Ebin, Source) ->
    filename:join(Ebin, filename:basename(Source, ".erl") ++ ".beam").

lacks_docs(Beam) ->
    case beam_lib:chunks(Beam, ["Docs"], [allow_missing_chunks]) of
        {ok, {_, [{"Docs", missing_chunk}]}} -> true;
        _ -> false
    end.

document(Sources, Ebin, Erlang) ->
    Folder = filename:join(Ebin, "doc_chunks." ++ os:getpid()),
    Options = [{doclet, edoc_doclet_chunks}, {layout, edoc_layout_chunks}, {dir, Folder},
               {preprocess, true}, {includes, [filename:join(Erlang, "include")]}],
    try
        ok = edoc:files(Sources, Options),
        lists:foreach(fun(Source) -> put_docs(beam(Ebin, Source), Folder) end, Sources)
    after
        file:del_dir_r(Folder)
    end.

%% In one step: a node may be loading the module.
put_docs(Beam, Folder) ->
    Chunk = filename:join([Folder, "chunks", filename:basename(Beam, ".beam") ++ ".chunk"]),
    {ok, Made} = file:read_file(Chunk),
    {ok, {_, [{exports, Exports}]}} = beam_lib:chunks(Beam, [exports]),
    Docs = exported(binary_to_term(Made), Exports),
    {ok, _, Chunks} = beam_lib:all_chunks(Beam),
    {ok, New} = beam_lib:build_module(Chunks ++ [{"Docs", term_to_binary(Docs, [compressed])}]),
    Temporary = Beam ++ ".new",
    ok = file:write_file(Temporary, New),
    ok = file:rename(Temporary, Beam).

%% EDoc lists every function, and the shell would show them all.
exported({docs_v1, Anno, Language, Format, Module, Meta, Entries}, Exports) ->
    Public = fun({{function, Name, Arity}, _, _, _, _}) -> lists:member({Name, Arity}, Exports);
                (_) -> true
             end,
    {docs_v1, Anno, Language, Format, Module, Meta, lists:filter(Public, Entries)}.
